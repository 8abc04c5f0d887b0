"""What all tables of the marketplace belong to."""

from __future__ import annotations

from sqlalchemy import MetaData

metadata = MetaData()
