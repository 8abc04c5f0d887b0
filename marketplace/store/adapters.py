"""LoRA adapters as stored. All calls are blocking and safe from several threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import NamedTuple

import sqlalchemy as sa

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.adapters.adapter import Adapter, AdapterLimits, AdapterState
from marketplace.store.connect import reading, writing
from marketplace.store.ledger import OPEN_STATES
from marketplace.store.schema import adapters, gateways, jobs

_COLUMNS = [adapters.c[field.name] for field in fields(Adapter)]
_THERE = adapters.c.removed_s.is_(None)


class Requested(NamedTuple):
    """What an open request is for."""

    tenant_id: str
    model: str
    created_s: float


class AdapterRows:
    """Rows of adapters; a removed one's stays."""

    def __init__(self, engine: sa.Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: of the gateway that takes files in."""
        self._engine = engine
        self._gateway_id = gateway_id

    def add(self, adapter: Adapter, limits: AdapterLimits) -> None:
        """Stores a new adapter.

        Raises:
            InvalidInputError: its name is taken, or there are too many.
        """
        namesakes = sa.select(adapters.c.tenant_id).where(
            _THERE, adapters.c.base == adapter.base, adapters.c.name == adapter.name
        )
        of_model = sa.select(sa.func.count()).where(_THERE, adapters.c.base == adapter.base)
        of_tenant = sa.select(sa.func.count()).where(
            _THERE, adapters.c.tenant_id == adapter.tenant_id
        )
        with writing(self._engine) as db:
            if db.dialect.name == "postgresql":
                # What is counted here must not change until the row is there.
                db.execute(sa.text("LOCK TABLE adapters IN SHARE ROW EXCLUSIVE MODE"))
            # One of the operator's must mean the same to every tenant, so nobody else has its name.
            taken = db.execute(namesakes).scalars().all()
            if adapter.tenant_id in taken or None in taken or (taken and not adapter.tenant_id):
                raise InvalidInputError(
                    "name", f"{adapter.model!r} exists already", remedy="choose another name"
                )
            if db.execute(of_model).scalar_one() >= limits.per_model:
                text = f"{adapter.base!r} has {limits.per_model} adapters, as many as its engine"
                raise InvalidInputError("base", f"{text} takes", remedy="remove one")
            if adapter.tenant_id and db.execute(of_tenant).scalar_one() >= limits.per_tenant:
                text = f"the tenant has {limits.per_tenant} adapters already"
                raise InvalidInputError("tenant", text, remedy="remove one")
            db.execute(sa.insert(adapters).values(asdict(adapter)))

    def list(self) -> list[Adapter]:
        """All that ever were, oldest first."""
        with reading(self._engine) as db:
            rows = db.execute(sa.select(*_COLUMNS).order_by(adapters.c.created_s)).mappings()
            return [Adapter(**row) for row in rows]

    def get(self, adapter_id: str, tenant_id: str | None = None) -> Adapter:
        """The adapter, if it was not removed; `tenant_id`: and is that tenant's own.

        Raises:
            NotFoundError: there is none.
        """
        # PostgreSQL refuses even to look for a text with a NUL.
        query = sa.select(*_COLUMNS).where(adapters.c.id == adapter_id.replace("\0", ""), _THERE)
        if tenant_id is not None:
            query = query.where(adapters.c.tenant_id == tenant_id)
        with reading(self._engine) as db:
            row = db.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"adapter {adapter_id!r} does not exist")
        return Adapter(**row)

    def begin(self, adapter_id: str) -> bool:
        """Its file comes in here from now on; False if it is there, or another is coming in."""
        free = adapters.c.state.in_(("pending", "failed"))
        values = {"state": "in_progress", "reason": "", "gateway_id": self._gateway_id}
        return self._change(adapter_id, free, **values)

    def end(
        self, adapter_id: str, state: AdapterState, reason: str = "", rank: int | None = None
    ) -> bool:
        """What became of the file that came in here; False if that was given up meanwhile."""
        mine = adapters.c.gateway_id.is_not_distinct_from(self._gateway_id)
        here = mine & (adapters.c.state == "in_progress")
        return self._change(adapter_id, here, state=state, reason=reason, rank=rank)

    def refuse(self, adapter_id: str, reason: str) -> None:
        """An engine could not load it."""
        ready = adapters.c.state == "ready"
        self._change(adapter_id, ready, state="failed", reason=reason)

    def remove(self, adapter_id: str, now_s: float) -> None:
        """It is not to be had from now on."""
        self._change(adapter_id, _THERE, removed_s=now_s)

    def recover(self) -> None:
        """Whoever sent a file to a gateway that is no more has to send it again."""
        there = sa.exists().where(gateways.c.id == adapters.c.gateway_id)
        query = sa.update(adapters).where(adapters.c.state == "in_progress", ~there)
        with writing(self._engine) as db:
            db.execute(query.values(state="pending"))

    def requested(self) -> Sequence[Requested]:
        """What the open requests of all gateways are for, as far as it may be an adapter."""
        columns = (jobs.c.tenant_id, jobs.c.model, jobs.c.created_s)
        query = sa.select(*columns).where(jobs.c.state.in_(OPEN_STATES), jobs.c.model.contains(":"))
        with reading(self._engine) as db:
            return [Requested(*row) for row in db.execute(query)]

    def _change(self, adapter_id: str, where: sa.ColumnElement[bool], **values: object) -> bool:
        query = sa.update(adapters).where(adapters.c.id == adapter_id, where).values(**values)
        with writing(self._engine) as db:
            return db.execute(query).rowcount > 0
