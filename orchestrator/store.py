"""What the orchestrator must not forget, in SQLite (WAL) through SQLAlchemy.

A plan is stored before it is applied, and only the newest generation may be applied. Every call
is one transaction and is short; use one `Store` from one thread. Database errors come out as
ours.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from airan.core.errors import NotFoundError, StaleGenerationError, UnavailableError
from orchestrator.mig import Placement
from orchestrator.plan import Plan, Target
from orchestrator.views import Event, Lease

_METADATA = sa.MetaData()
_PLANS = sa.Table(
    "plans",
    _METADATA,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)
_LEASES = sa.Table(
    "leases",
    _METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("granted_s", sa.Float, nullable=False),
    sa.Column("pid_started_s", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)
_EVENTS = sa.Table(
    "events",
    _METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("severity", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sqlite_autoincrement=True,
)
_ROLES = sa.Table(
    "partition_roles",
    _METADATA,
    sa.Column("partition_id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
)
_DEMAND = sa.Table(
    "demand_history",
    _METADATA,
    sa.Column("time_s", sa.Float, primary_key=True),
    sa.Column("share", sa.Float, nullable=False),
)
_VALUES = sa.Table(
    "site_values",
    _METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)


@dataclasses.dataclass(frozen=True)
class StoredPlan:
    """A plan with what became of it: stored | applying | applied | failed | superseded."""

    plan: Plan
    state: str
    created_s: float


class Store:
    """The orchestrator's database.

    Raises:
        UnavailableError: from any method, when the database cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _configure)
        with self._transaction() as db:
            _METADATA.create_all(db)

    def close(self) -> None:
        """Closes the database. Idempotent."""
        self._engine.dispose()

    # --- plans

    def add_plan(self, plan: Plan, now_s: float) -> None:
        """Stores a plan as `stored`, and marks unfinished older ones `superseded`.

        Raises:
            StaleGenerationError: a plan of the same or a newer generation is stored already.
        """
        with self._transaction() as db:
            newest = db.execute(sa.select(sa.func.max(_PLANS.c.generation))).scalar() or 0
            if plan.generation <= newest:
                raise StaleGenerationError(
                    f"plan {plan.generation} is stale: plan {newest} is stored already",
                    remedy="plan anew with the newest plan as parent",
                )
            open_states = _PLANS.c.state.in_(("stored", "applying"))
            db.execute(_PLANS.update().where(open_states).values(state="superseded"))
            row = {
                "generation": plan.generation,
                "parent": plan.parent,
                "state": "stored",
                "created_s": now_s,
                "body": _plan_body(plan),
            }
            db.execute(_PLANS.insert().values(row))

    def mark_plan(self, generation: int, state: str) -> None:
        """Notes what became of the newest plan.

        Raises:
            StaleGenerationError: a newer plan has been stored.
            NotFoundError: no such plan.
        """
        with self._transaction() as db:
            newest = db.execute(sa.select(sa.func.max(_PLANS.c.generation))).scalar() or 0
            if generation < newest:
                raise StaleGenerationError(f"plan {generation} is stale: plan {newest} is stored")
            change = _PLANS.update().where(_PLANS.c.generation == generation).values(state=state)
            if not db.execute(change).rowcount:
                raise NotFoundError(f"there is no plan {generation}")

    def plans(self, limit: int) -> list[StoredPlan]:
        """Newest first."""
        query = sa.select(_PLANS).order_by(_PLANS.c.generation.desc()).limit(limit)
        with self._transaction() as db:
            return [_stored_plan(row) for row in db.execute(query)]

    def newest_plan(self) -> StoredPlan | None:
        """The newest plan, in whatever state."""
        return next(iter(self.plans(1)), None)

    def plan(self, generation: int) -> StoredPlan | None:
        """The plan of that generation."""
        query = sa.select(_PLANS).where(_PLANS.c.generation == generation)
        with self._transaction() as db:
            row = db.execute(query).first()
            return None if row is None else _stored_plan(row)

    # --- roles of partitions

    def roles(self) -> dict[str, str]:
        """Role by partition id."""
        with self._transaction() as db:
            return {row.partition_id: row.role for row in db.execute(sa.select(_ROLES))}

    def set_role(self, partition_id: str, role: str) -> None:
        """Gives a partition a role. Idempotent."""
        change = insert(_ROLES).values(partition_id=partition_id, role=role)
        change = change.on_conflict_do_update(
            index_elements=[_ROLES.c.partition_id], set_={"role": role}
        )
        with self._transaction() as db:
            db.execute(change)

    def keep_roles(self, partition_ids: Sequence[str]) -> None:
        """Forgets the roles of all other partitions: they are gone."""
        with self._transaction() as db:
            db.execute(_ROLES.delete().where(_ROLES.c.partition_id.not_in(partition_ids)))

    # --- leases

    def put_lease(self, lease: Lease, pid_started_s: float) -> None:
        """Stores the lease as it is now."""
        row = {
            "id": lease.id,
            "state": lease.state,
            "granted_s": lease.granted_s,
            "pid_started_s": pid_started_s,
            "body": dataclasses.asdict(lease),
        }
        change = insert(_LEASES).values(row)
        change = change.on_conflict_do_update(index_elements=[_LEASES.c.id], set_=row)
        with self._transaction() as db:
            db.execute(change)

    def leases(
        self, *, include_ended: bool = False, limit: int = 1000
    ) -> list[tuple[Lease, float]]:
        """Live (or all) leases with their process's start time, newest first."""
        query = sa.select(_LEASES).order_by(_LEASES.c.granted_s.desc()).limit(limit)
        if not include_ended:
            query = query.where(_LEASES.c.state != "ended")
        with self._transaction() as db:
            return [(Lease(**row.body), row.pid_started_s) for row in db.execute(query)]

    def lease(self, lease_id: str) -> Lease | None:
        """The lease with that id, also an ended one."""
        with self._transaction() as db:
            body = db.execute(sa.select(_LEASES.c.body).where(_LEASES.c.id == lease_id)).scalar()
            return None if body is None else Lease(**body)

    # --- events

    def add_event(self, time_s: float, severity: str, kind: str, message: str) -> Event:
        """Appends an event; its `seq` is larger than every one before."""
        row = {"time_s": time_s, "severity": severity, "kind": kind, "message": message}
        with self._transaction() as db:
            key = db.execute(_EVENTS.insert().values(row)).inserted_primary_key
        assert key is not None
        return Event(seq=key[0], **row)  # type: ignore[arg-type]

    def events(self, after_seq: int, limit: int) -> list[Event]:
        """Events with `seq > after_seq`, oldest first."""
        query = sa.select(_EVENTS).where(_EVENTS.c.seq > after_seq)
        query = query.order_by(_EVENTS.c.seq).limit(limit)
        with self._transaction() as db:
            return [Event(*row) for row in db.execute(query)]

    # --- demand

    def add_demand(self, time_s: float, share: float, keep_s: float) -> None:
        """Appends a demand sample and forgets those older than `keep_s` before it."""
        change = insert(_DEMAND).values(time_s=time_s, share=share).on_conflict_do_nothing()
        with self._transaction() as db:
            db.execute(change)
            db.execute(_DEMAND.delete().where(_DEMAND.c.time_s < time_s - keep_s))

    def demand(self) -> list[tuple[float, float]]:
        """Samples (Unix seconds, share), oldest first."""
        with self._transaction() as db:
            rows = db.execute(sa.select(_DEMAND).order_by(_DEMAND.c.time_s))
            return [(row.time_s, row.share) for row in rows]

    # --- other values: the policy, accumulators

    def value(self, key: str) -> Any:
        """The JSON value stored under `key`, or None."""
        with self._transaction() as db:
            return db.execute(sa.select(_VALUES.c.value).where(_VALUES.c.key == key)).scalar()

    def set_value(self, key: str, value: Any) -> None:
        """Stores a JSON value under `key`."""
        change = insert(_VALUES).values(key=key, value=value)
        change = change.on_conflict_do_update(
            index_elements=[_VALUES.c.key], set_={"value": change.excluded.value}
        )
        with self._transaction() as db:
            db.execute(change)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.SQLAlchemyError as error:
            raise UnavailableError(
                f"the orchestrator's database {self._path} failed: {error}",
                remedy="check that the disk is not full and the file is not damaged",
            ) from error


def _configure(connection: Any, _: Any) -> None:
    # NORMAL loses no transaction when a process is killed, only when the machine loses power.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _plan_body(plan: Plan) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan)))
    return body


def _stored_plan(row: Any) -> StoredPlan:
    body = dict(row.body)
    targets = tuple(
        Target(**{**target, "placement": Placement(**target["placement"])})
        for target in body.pop("targets")
    )
    return StoredPlan(Plan(targets=targets, **body), row.state, row.created_s)
