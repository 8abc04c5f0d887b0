"""Alembic's environment: runs on the connection that `orchestrator.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from orchestrator.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
context.run_migrations()
