"""Leases, live and ended."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from orchestrator.store.database import Database
from orchestrator.store.schema import LEASES
from orchestrator.views import Lease


class LeaseStore:
    """The part of the store that leases are kept in."""

    _database: Database

    def put_lease(self, lease: Lease, pid_started_s: float) -> None:
        """Stores the lease as it is now."""
        row = {
            "id": lease.id,
            "state": lease.state,
            "granted_s": lease.granted_s,
            "pid_started_s": pid_started_s,
            "body": dataclasses.asdict(lease),
        }
        with self._database.writing() as db:
            db.execute(self._database.upsert(LEASES), row)

    def leases(
        self,
        *,
        include_ended: bool = False,
        limit: int = 1000,
        before: tuple[float, str] | None = None,
    ) -> list[tuple[Lease, float]]:
        """Live (or all) leases with their process's start time, newest first; only those before
        (granted_s, id), if it is given."""
        order = (LEASES.c.granted_s.desc(), LEASES.c.id.desc())
        query = sa.select(LEASES).order_by(*order).limit(limit)
        if not include_ended:
            query = query.where(LEASES.c.state != "ended")
        if before is not None:
            query = query.where(sa.tuple_(LEASES.c.granted_s, LEASES.c.id) < sa.tuple_(*before))
        with self._database.reading() as db:
            return [(Lease(**row.body), row.pid_started_s) for row in db.execute(query)]

    def lease(self, lease_id: str) -> Lease | None:
        """The lease with that id, also an ended one."""
        with self._database.reading() as db:
            body = db.execute(sa.select(LEASES.c.body).where(LEASES.c.id == lease_id)).scalar()
            return None if body is None else Lease(**body)
