"""Alembic's environment: runs on the connection that `marketplace.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from marketplace.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
