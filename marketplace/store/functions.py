"""Functions and invocations of containers. All calls are blocking and safe from several threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Engine, Row, Select, func, insert, or_, select, update

from airan.core.errors import InvalidInputError
from marketplace.billing.quotes import Ask
from marketplace.functions import Function
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.billing import reserve
from marketplace.store.connect import reading, writing
from marketplace.store.ledger import OPEN_STATES
from marketplace.store.schema import functions, invocations, jobs

_COLUMNS = [functions.c[field.name] for field in fields(Function)]


@dataclass(frozen=True)
class Invocation:
    """A call of a container that has not ended."""

    job_id: str
    tenant_id: str
    function: Function
    body: bytes
    attempts: int
    status: int | None
    """Of the answer, which came before the job could be ended; None: there is none yet."""


@dataclass(frozen=True)
class InvocationResult:
    """What a container answered."""

    status: int
    content_type: str
    body: bytes


class Functions:
    """A function has versions; the newest one that is not deleted is the one called."""

    def __init__(self, engine: Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: who runs what is accepted."""
        self._engine = engine
        self._gateway_id = gateway_id

    def add(self, row: dict[str, Any], max_per_tenant: int) -> Function:
        """Stores a version of a function.

        Raises:
            InvalidInputError: the tenant has too many.
        """
        with writing(self._engine) as db:
            mine = select(functions.c.version_id).where(
                functions.c.tenant_id == row["tenant_id"], functions.c.deleted_s.is_(None)
            )
            if row["tenant_id"] is not None and len(db.execute(mine).all()) >= max_per_tenant:
                raise InvalidInputError(
                    "name", f"there are {max_per_tenant} functions already", remedy="delete some"
                )
            db.execute(insert(functions).values(row))
        return Function(**row)

    def find(
        self, function_id: str, version_id: str | None, tenant_id: str | None
    ) -> Function | None:
        """The function as that tenant may call it; without a version, its newest."""
        found = self.versions(function_id, tenant_id)
        if version_id is not None:
            found = [one for one in found if one.version_id == version_id]
        return found[-1] if found else None

    def versions(self, function_id: str | None, tenant_id: str | None) -> list[Function]:
        """Versions that the tenant may call, oldest first; `function_id` None: of all functions.

        `tenant_id` None: public ones only.
        """
        query = select(*_COLUMNS).where(functions.c.deleted_s.is_(None))
        public = functions.c.tenant_id.is_(None)
        seen = public if tenant_id is None else or_(public, functions.c.tenant_id == tenant_id)
        if function_id is not None:
            # PostgreSQL refuses even to look for a text with a NUL.
            query = query.where(functions.c.id == function_id.replace("\0", ""))
        query = query.where(seen).order_by(functions.c.created_s, functions.c.version_id)
        with reading(self._engine) as db:
            return [_function(row) for row in db.execute(query)]

    def delete(self, version_id: str, now_s: float) -> None:
        """Takes a version out of use; what it runs already goes on."""
        query = update(functions).where(functions.c.version_id == version_id)
        with writing(self._engine) as db:
            db.execute(query.values(deleted_s=now_s))

    def accept(
        self, job_id: str, principal: Principal, function: Function, body: bytes, now_s: float
    ) -> None:
        """Stores an invocation with its job, and what it costs set aside, or does nothing.

        Raises:
            QuotaExceededError, BudgetExceededError: a limit refuses it.
        """
        job: dict[str, Any] = {"id": job_id, "tenant_id": principal.tenant_id}
        job |= {"key_id": principal.key_id}
        job |= {"kind": "function", "model": function.name, "input_tokens": 0}
        job |= {"gateway_id": self._gateway_id}
        call: dict[str, Any] = {"job_id": job_id, "version_id": function.version_id}
        call |= {"body": body, "attempts": 0}
        ask = Ask(principal, function.name, "default", 0, 0)
        with writing(self._engine) as db:
            reserve(db, job, ask, Price(0, 0, function.price_micro_usd), now_s)
            db.execute(insert(invocations).values(call))

    def begin_attempt(self, job_id: str, now_s: float) -> None:
        """Counts an attempt before it is made."""
        count = update(invocations).where(invocations.c.job_id.in_(self._open(job_id)))
        state = update(jobs).where(jobs.c.id.in_(self._open(job_id)))
        with writing(self._engine) as db:
            db.execute(count.values(attempts=invocations.c.attempts + 1))
            db.execute(state.values(state="running", updated_s=now_s))

    def keep_result(self, job_id: str, result: InvocationResult) -> None:
        """Stores what the container answered; the job is ended, and billed, by the ledger."""
        query = update(invocations).where(invocations.c.job_id.in_(self._open(job_id)))
        values = {"status": result.status, "content_type": result.content_type}
        with writing(self._engine) as db:
            db.execute(query.values(**values, result=result.body))

    def _open(self, job_id: str) -> Select[Any]:
        """The job's id, while it is open and ours: another gateway's is left alone."""
        query = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.state.in_(OPEN_STATES))
        if self._gateway_id is not None:
            query = query.where(jobs.c.gateway_id == self._gateway_id)
        return query

    def result(self, job_id: str) -> InvocationResult | None:
        """What the container answered, if it has."""
        query = select(invocations.c.status, invocations.c.content_type, invocations.c.result)
        with reading(self._engine) as db:
            row = db.execute(query.where(invocations.c.job_id == job_id)).first()
        if row is None or row.status is None:
            return None
        return InvocationResult(row.status, row.content_type, row.result)

    def version_of(self, job_id: str) -> Function | None:
        """The function that the job is an invocation of."""
        query = select(*_COLUMNS).join_from(invocations, functions)
        with reading(self._engine) as db:
            row = db.execute(query.where(invocations.c.job_id == job_id)).first()
        return None if row is None else _function(row)

    def n_waiting_elsewhere(self, version_id: str) -> int:
        """Invocations of a version that no container works on yet, at other gateways."""
        query = select(func.count()).select_from(invocations).join(jobs)
        query = query.where(invocations.c.version_id == version_id, jobs.c.state == "queued")
        with reading(self._engine) as db:
            found = db.execute(query.where(jobs.c.gateway_id != self._gateway_id))
            return int(found.scalar_one())

    def open_invocations(self, job_ids: Sequence[str]) -> list[Invocation]:
        """Those of these jobs that have not ended, oldest first."""
        query = select(
            invocations.c.job_id,
            invocations.c.body,
            invocations.c.attempts,
            invocations.c.status,
            jobs.c.tenant_id.label("caller"),
            *_COLUMNS,
        )
        query = query.join_from(invocations, functions).join(jobs)
        query = query.where(jobs.c.state.in_(OPEN_STATES), jobs.c.id.in_(job_ids))
        query = query.order_by(jobs.c.created_s)
        with reading(self._engine) as db:
            return [
                Invocation(
                    row.job_id, row.caller, _function(row), row.body, row.attempts, row.status
                )
                for row in db.execute(query)
            ]


def _function(row: Row[Any]) -> Function:
    return Function(**{field.name: getattr(row, field.name) for field in fields(Function)})
