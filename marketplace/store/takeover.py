"""What gateways that are no more have left open, and who goes on with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from marketplace.store.batches import OPEN as OPEN_BATCHES
from marketplace.store.billing import release
from marketplace.store.ledger import OPEN_STATES
from marketplace.store.presence import orphaned
from marketplace.store.schema import batches, idempotency_keys, jobs, peer_sendings

_ALONE = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '/inheritance', 727003))"
)
_LOST = {
    "state": "failed",
    "error_code": "gateway_restarted",
    "error_message": "the gateway restarted and the connection was lost; not billed",
}


@dataclass(frozen=True)
class Inheritance:
    """What a gateway goes on with.

    Attributes:
        jobs: rows of open asynchronous jobs, oldest first.
        invocations: ids of open jobs whose invocations of containers are to be run.
        sent: ids of jobs, ended ones too, of which a peer may still have something.
        batches: rows of open batches, oldest first.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    invocations: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.invocations or self.sent or self.batches)


def inherit(
    db: sa.Connection, gateway_id: str, models: Collection[str] | None, now_s: float
) -> Inheritance:
    """Makes what has no gateway any more that one's, within the caller's transaction.

    Jobs whose connection died with their gateway end, unbilled; requests under an Idempotency-Key
    may be repeated. Of two that ask at once one waits for the other, and gets what is left.

    Args:
        db: in a transaction.
        gateway_id: who takes it.
        models: that it can serve; jobs for others, and for adapters of others, are left to a
            gateway that can. None: all.
        now_s: the time.
    """
    if db.dialect.name == "postgresql":
        # Whoever waited for a row that another one took would take it too: its statement began
        # before it could see that the other has a seat.
        db.execute(_ALONE)
    ended = _end_connected(db, now_s)
    found = _open_jobs(db, gateway_id, models)
    is_function = (jobs.c.state.in_(OPEN_STATES), jobs.c.kind == "function")
    sent = sa.select(peer_sendings.c.job_id).where(peer_sendings.c.state == "open")
    invocations = _take(db, gateway_id, *is_function)
    # Of those taken just now, and of ended ones.
    at_peers = _take(db, gateway_id, jobs.c.id.in_(sent), jobs.c.state.not_in(OPEN_STATES))
    own = [row["id"] for row in found]
    at_peers += list(db.execute(sent.where(peer_sendings.c.job_id.in_(own))).scalars())
    mine = sa.update(batches).where(batches.c.state.in_(OPEN_BATCHES), orphaned(batches))
    taken = db.execute(mine.values(gateway_id=gateway_id).returning(batches)).mappings()
    of_batches = sorted((dict(row) for row in taken), key=lambda row: row["created_s"])
    repeated = sa.update(idempotency_keys).where(
        idempotency_keys.c.state == "running", orphaned(idempotency_keys)
    )
    db.execute(repeated.values(state="open"))
    # Tenants are locked last, as by whoever ends a job, and by everybody in the same order.
    for tenant_id, job_id in sorted(ended):
        release(db, job_id, tenant_id, now_s)
    return Inheritance(found, invocations, at_peers, of_batches)


def _end_connected(db: sa.Connection, now_s: float) -> list[tuple[str, str]]:
    """Tenant and id of the jobs that ended."""
    ended = sa.update(jobs).where(
        jobs.c.state.in_(OPEN_STATES), jobs.c.kind == "sync", orphaned(jobs)
    )
    ended = ended.values(**_LOST, updated_s=now_s).returning(jobs.c.tenant_id, jobs.c.id)
    return [(row.tenant_id, row.id) for row in db.execute(ended)]


def _open_jobs(
    db: sa.Connection, gateway_id: str, models: Collection[str] | None
) -> list[dict[str, Any]]:
    is_left = (jobs.c.state.in_(OPEN_STATES), jobs.c.kind == "async", orphaned(jobs))
    names = set(db.execute(sa.select(jobs.c.model).where(*is_left).distinct()).scalars())
    if models is not None:
        bases = tuple(f"{model}:" for model in models)
        names = {name for name in names if name in models or name.startswith(bases)}
    query = sa.update(jobs).where(*is_left, jobs.c.model.in_(names))
    rows = db.execute(query.values(gateway_id=gateway_id).returning(jobs)).mappings()
    return sorted((dict(row) for row in rows), key=lambda row: row["created_s"])


def _take(db: sa.Connection, gateway_id: str, *which: sa.ColumnElement[bool]) -> list[str]:
    query = sa.update(jobs).where(*which, orphaned(jobs)).values(gateway_id=gateway_id)
    return list(db.execute(query.returning(jobs.c.id)).scalars())
