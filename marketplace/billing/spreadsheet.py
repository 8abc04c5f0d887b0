"""Rows as CSV, for a spreadsheet that must run nothing of what a tenant wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(text: str) -> str:
    """The text, marked as such where a spreadsheet would run it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A line with the columns' names, then one a row; what is None stays empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        values = (row[name] for name in columns)
        writer.writerow([cell(one) if isinstance(one, str) else one for one in values])
    return out.getvalue()
