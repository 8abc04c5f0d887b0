"""Where tenants' data may go, which tenants are peers, and what peers cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from marketplace.federation.policy import DataPolicy, parse_policy
from marketplace.store.accounts import tenant_id_of
from marketplace.store.connect import reading, writing
from marketplace.store.schema import peer_usage, tenants


@dataclass(frozen=True)
class PeerCost:
    """What one job cost at one peer, by the peer's price."""

    job_id: str
    peer: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    created_s: float
    heard: bool = True
    """False: what became of it is not known, and this is the most that it can have come to."""


class Peering:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def policy_of(self, tenant_id: str) -> DataPolicy:
        """The tenant's data policy as it is now."""
        query = sa.select(tenants.c.data_policy).where(tenants.c.id == tenant_id)
        with reading(self._engine) as db:
            return parse_policy(db.execute(query).scalar_one())

    def set_policy(self, tenant: str, policy: str) -> dict[str, Any]:
        """Sets where the data of the tenant of that name or id may go.

        Raises:
            NotFoundError: there is no such tenant.
            InvalidInputError: it is no policy.
        """
        return self._set(tenant, data_policy=str(parse_policy(policy)))

    def set_peer(self, tenant: str, is_peer: bool) -> dict[str, Any]:
        """Says whether the tenant is a site, whose work runs while compute is free.

        Raises:
            NotFoundError: there is no such tenant.
        """
        return self._set(tenant, peer=is_peer)

    def note_cost(self, cost: PeerCost) -> None:
        """Keeps what a job cost at a peer. Idempotent: the first one counts."""
        with writing(self._engine) as db:
            keep_cost(db, cost)

    def costs(self) -> list[dict[str, Any]]:
        """Requests, tokens and money by peer and model; `unheard`: of these, requests whose end
        is not known."""
        total = sa.func.sum
        unheard = sa.case((peer_usage.c.heard, 0), else_=1)
        query = sa.select(
            peer_usage.c.peer,
            peer_usage.c.model,
            sa.func.count().label("requests"),
            total(unheard).label("unheard"),
            total(peer_usage.c.input_tokens).label("input_tokens"),
            total(peer_usage.c.output_tokens).label("output_tokens"),
            total(peer_usage.c.cost_micro_usd).label("cost_micro_usd"),
        ).group_by(peer_usage.c.peer, peer_usage.c.model)
        with reading(self._engine) as db:
            rows = db.execute(query.order_by(peer_usage.c.peer, peer_usage.c.model)).mappings()
            return [{**row, "cost_micro_usd": int(row["cost_micro_usd"])} for row in rows]

    def _set(self, tenant: str, **values: Any) -> dict[str, Any]:
        with writing(self._engine) as db:
            mine = tenants.c.id == tenant_id_of(db, tenant)
            db.execute(sa.update(tenants).where(mine).values(values))
            return dict(db.execute(sa.select(tenants).where(mine)).mappings().one())


def keep_cost(db: sa.Connection, cost: PeerCost) -> None:
    """Keeps what a job cost at a peer, unless that is known already."""
    mine = (peer_usage.c.job_id == cost.job_id, peer_usage.c.peer == cost.peer)
    if db.execute(sa.select(peer_usage.c.job_id).where(*mine)).first() is None:
        db.execute(sa.insert(peer_usage).values(asdict(cost)))
