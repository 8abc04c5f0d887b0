"""Whether a gateway has its seat still: before it begins something, and for what it has begun."""

from __future__ import annotations

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.store.prepared import Prepared
from marketplace.store.schema import gateways

# Whoever takes the seat away waits for the transaction, and then sees what it wrote.
_SEATED = Prepared(
    sa.select(gateways.c.id)
    .where(gateways.c.id == sa.bindparam("gateway"))
    .with_for_update(read=True, key_share=True)
)


def check_seated(db: sa.Connection, gateway_id: str | None) -> None:
    """Lets through who has not been given up: what that one took on would be nobody's.

    On SQLite there is one gateway, which nobody gives up.

    Raises:
        UnavailableError: another gateway has taken its seat away.
    """
    if gateway_id is None or db.dialect.name == "sqlite":
        return
    if _SEATED.first(db, {"gateway": gateway_id}) is None:
        raise UnavailableError(
            "this gateway was taken for dead and takes on nothing more",
            remedy="try again in a few seconds",
        )


def orphaned(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether the gateway of a row is no more, or there never was one."""
    owner = table.c.gateway_id
    return sa.or_(owner.is_(None), ~sa.exists().where(gateways.c.id == owner))


def runs(db: sa.Connection, table: sa.Table, gateway_id: str | None, row_id: str) -> bool:
    """Whether the job or batch of that table, ended or not, is that gateway's, which it stays until
    the transaction ends; `gateway_id` None: everything is."""
    if gateway_id is None:
        return True
    mine = (table.c.id == row_id, table.c.gateway_id == gateway_id)
    query = sa.select(table.c.id).where(*mine).with_for_update(read=True)
    return db.execute(query).first() is not None
