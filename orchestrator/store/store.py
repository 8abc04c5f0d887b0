"""The store as one object."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator.store.database import Database
from orchestrator.store.leases import LeaseStore
from orchestrator.store.logs import LogStore
from orchestrator.store.plans import PlanStore
from orchestrator.store.schema import DEMAND, EVENTS, LEASES, MAINTENANCE, PLANS, STEPS, VALUES

_PRUNED_AT_ONCE = 1000
_ALL_MAINTENANCE = sa.select(MAINTENANCE)
_FORGET_DEMAND = DEMAND.delete().where(DEMAND.c.time_s < sa.bindparam("before_s"))


class Store(PlanStore, LeaseStore, LogStore):
    """The orchestrator's database.

    Raises:
        UnavailableError: from any method, when the database cannot be read or written.
        StaleGenerationError: from any write, once another orchestrator has taken the lead.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens the SQLite file at a path, or the database with a URL, and migrates it."""
        url = path if isinstance(path, str) and "://" in path else f"sqlite:///{path}"
        self._database = Database(url)

    def close(self) -> None:
        """Closes the database. Idempotent."""
        self._database.close()

    def follow(self, epoch: int, require: Callable[[], None] | None = None) -> None:
        """From now on writes are refused once a leadership newer than `epoch` has begun, and
        everything once `require` raises."""
        self._database.epoch = epoch
        if require is not None:
            self._database.require = require

    def together(self) -> AbstractContextManager[None]:
        """Makes all changes within one transaction, kept whole or not at all. Never wait in it."""
        return self._database.together()

    def then(self, tell: Callable[[], None]) -> None:
        """Calls `tell` once the changes before it are kept: at once outside of `together`."""
        self._database.then(tell)

    # --- demand

    def add_demand(self, time_s: float, share: float, keep_s: float) -> None:
        """Appends a demand sample and forgets those older than `keep_s` before it."""
        with self._database.writing() as db:
            db.execute(self._database.upsert(DEMAND), {"time_s": time_s, "share": share})
            db.execute(_FORGET_DEMAND, {"before_s": time_s - keep_s})

    def demand(self) -> list[tuple[float, float]]:
        """Samples (Unix seconds, share), oldest first."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(DEMAND).order_by(DEMAND.c.time_s))
            return [(row.time_s, row.share) for row in rows]

    # --- maintenance

    def set_maintenance(self, gpu_uuid: str, reason: str, now_s: float) -> None:
        """Notes that a GPU is in maintenance. Idempotent."""
        row = {"gpu_uuid": gpu_uuid, "reason": reason, "since_s": now_s}
        with self._database.writing() as db:
            db.execute(self._database.upsert(MAINTENANCE), row)

    def clear_maintenance(self, gpu_uuid: str) -> None:
        """Notes that it no longer is. Idempotent."""
        with self._database.writing() as db:
            db.execute(MAINTENANCE.delete().where(MAINTENANCE.c.gpu_uuid == gpu_uuid))

    def maintenance(self) -> dict[str, str]:
        """Why, by GPU."""
        with self._database.reading() as db:
            return {row.gpu_uuid: row.reason for row in db.execute(_ALL_MAINTENANCE)}

    # --- other values: the policy, accumulators

    def value(self, key: str) -> Any:
        """The JSON value stored under `key`, or None."""
        with self._database.reading() as db:
            return db.execute(sa.select(VALUES.c.value).where(VALUES.c.key == key)).scalar()

    def set_value(self, key: str, value: Any) -> None:
        """Stores a JSON value under `key`."""
        with self._database.writing() as db:
            db.execute(self._database.upsert(VALUES), {"key": key, "value": value})

    # --- upkeep

    def prune(self, *, keep_plans: int, keep_events: int, keep_ended_leases: int) -> None:
        """Forgets the oldest of what is beyond the newest so many plans (with their steps),
        events and ended leases; a thousand of each at most, so that it never takes long. The
        audit log is kept whole."""
        ended = sa.select(LEASES.c.id).where(LEASES.c.state == "ended")
        old = ended.order_by(LEASES.c.granted_s.desc(), LEASES.c.id.desc())
        few = old.offset(keep_ended_leases).limit(_PRUNED_AT_ONCE)
        with self._database.writing() as db:
            db.execute(EVENTS.delete().where(_oldest(EVENTS.c.seq, keep_events)))
            db.execute(PLANS.delete().where(_oldest(PLANS.c.generation, keep_plans)))
            kept = sa.select(sa.func.min(PLANS.c.generation)).scalar_subquery()
            db.execute(STEPS.delete().where(STEPS.c.generation < kept))
            db.execute(LEASES.delete().where(LEASES.c.id.in_(few)))


def _oldest(number: sa.Column[int], keep: int) -> sa.ColumnElement[bool]:
    """The rows to forget of a table numbered without large gaps, of which `keep` stay."""
    newest = sa.select(sa.func.max(number)).scalar_subquery()
    old = sa.select(number).where(number <= newest - keep)
    return number.in_(old.order_by(number).limit(_PRUNED_AT_ONCE))
