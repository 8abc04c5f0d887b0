"""Plans with their steps, and the roles of partitions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from airan.core.errors import NotFoundError, StaleGenerationError
from orchestrator.mig import Placement
from orchestrator.pool import Plan, Target
from orchestrator.store.database import Database
from orchestrator.store.schema import PLANS, ROLES, STEPS

# Built once: to build a statement takes longer than to execute it.
_NEWEST = sa.select(sa.func.max(PLANS.c.generation))
_NEWEST_PLAN = sa.select(PLANS).order_by(PLANS.c.generation.desc()).limit(1)
_ADD_PLAN, _ADD_STEP, _ALL_ROLES = PLANS.insert(), STEPS.insert(), sa.select(ROLES)
_SUPERSEDE = (
    PLANS.update().where(PLANS.c.state.in_(("stored", "applying"))).values(state="superseded")
)
_MARK_PLAN = (
    PLANS.update()
    .where(PLANS.c.generation == sa.bindparam("number"))
    .values(state=sa.bindparam("now"))
)
# What became of the undoing of a plan: only the newest plan undoes one.
_MARK_UNDOING = (
    PLANS.update().where(PLANS.c.state == "undoing").values(state=sa.bindparam("ended_as"))
)
_UNDO = (
    PLANS.update()
    .where(PLANS.c.generation == sa.bindparam("number"), PLANS.c.state == "failed")
    .values(state="undoing")
)


@dataclasses.dataclass(frozen=True)
class StoredPlan:
    """A plan with what became of it: stored | applying | applied | failed | undoing | undone |
    superseded. A failed plan is `undoing` while a newer one undoes it."""

    plan: Plan
    state: str
    created_s: float


@dataclasses.dataclass(frozen=True)
class StoredStep:
    """A step of a plan as it was taken: started | done | failed."""

    seq: int
    generation: int
    time_s: float
    step: str
    state: str
    error: str


class PlanStore:
    """The part of the store that plans are kept in."""

    _database: Database

    def add_plan(self, plan: Plan, now_s: float) -> None:
        """Stores a plan as `stored`, and marks unfinished older ones `superseded`; the one that
        it undoes is `undoing`.

        Raises:
            StaleGenerationError: a plan of the same or a newer generation is stored already.
        """
        with self._database.writing() as db:
            newest = _newest(db)
            if plan.generation <= newest:
                raise StaleGenerationError(
                    f"plan {plan.generation} is stale: plan {newest} is stored already",
                    remedy="plan anew with the newest plan as parent",
                )
            db.execute(_SUPERSEDE)
            row = {
                "generation": plan.generation,
                "parent": plan.parent,
                "state": "stored",
                "created_s": now_s,
                "body": _plan_body(plan),
            }
            db.execute(_ADD_PLAN, row)
            db.execute(_MARK_UNDOING, {"ended_as": "failed"})
            if plan.undoes:
                db.execute(_UNDO, {"number": plan.undoes})

    def mark_plan(self, generation: int, state: str) -> None:
        """Notes what became of the newest plan, and with it of the one that it undoes.

        Raises:
            StaleGenerationError: a newer plan has been stored.
            NotFoundError: no such plan.
        """
        with self._database.writing() as db:
            newest = _newest(db)
            if generation < newest:
                raise StaleGenerationError(f"plan {generation} is stale: plan {newest} is stored")
            if not db.execute(_MARK_PLAN, {"number": generation, "now": state}).rowcount:
                raise NotFoundError(f"there is no plan {generation}")
            if state in ("applied", "failed"):
                ended_as = "undone" if state == "applied" else "failed"
                db.execute(_MARK_UNDOING, {"ended_as": ended_as})

    def plans(self, limit: int, before_generation: int | None = None) -> list[StoredPlan]:
        """Newest first; only those before a generation, if one is given."""
        query = sa.select(PLANS).order_by(PLANS.c.generation.desc()).limit(limit)
        if before_generation is not None:
            query = query.where(PLANS.c.generation < before_generation)
        with self._database.reading() as db:
            return [_stored_plan(row) for row in db.execute(query)]

    def newest_plan(self) -> StoredPlan | None:
        """The newest plan, in whatever state."""
        with self._database.reading() as db:
            row = db.execute(_NEWEST_PLAN).first()
            return None if row is None else _stored_plan(row)

    def plan(self, generation: int) -> StoredPlan | None:
        """The plan of that generation."""
        query = sa.select(PLANS).where(PLANS.c.generation == generation)
        with self._database.reading() as db:
            row = db.execute(query).first()
            return None if row is None else _stored_plan(row)

    # --- steps

    def note_step(
        self, generation: int, step: str, state: str, now_s: float, error: str = ""
    ) -> None:
        """Appends what became of a step."""
        row = {"generation": generation, "time_s": now_s, "step": step}
        with self._database.writing() as db:
            db.execute(_ADD_STEP, row | {"state": state, "error": error})

    def plan_steps(self, generation: int) -> list[StoredStep]:
        """The steps taken for a plan, in order."""
        query = sa.select(STEPS).where(STEPS.c.generation == generation).order_by(STEPS.c.seq)
        with self._database.reading() as db:
            return [StoredStep(*row) for row in db.execute(query)]

    # --- roles of partitions

    def roles(self) -> dict[str, str]:
        """Role by partition id."""
        with self._database.reading() as db:
            return {row.partition_id: row.role for row in db.execute(_ALL_ROLES)}

    def set_role(self, partition_id: str, role: str) -> None:
        """Gives a partition a role. Idempotent."""
        row = {"partition_id": partition_id, "role": role}
        with self._database.writing() as db:
            db.execute(self._database.upsert(ROLES), row)

    def keep_roles(self, partition_ids: Sequence[str]) -> None:
        """Forgets the roles of all other partitions: they are gone."""
        with self._database.writing() as db:
            db.execute(ROLES.delete().where(ROLES.c.partition_id.not_in(partition_ids)))


def _newest(db: sa.Connection) -> int:
    return db.execute(_NEWEST).scalar() or 0


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
