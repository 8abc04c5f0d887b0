"""The operator's interface to federation: data policies, tenants that are peers, peers' costs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from marketplace.federation.policy import MAX_CHARS
from marketplace.gateway.bodies import Body, read_as
from marketplace.gateway.runtime import Runtime
from marketplace.store.ledger import usd


class Policy(Body):
    """Where a tenant's prompts may go."""

    policy: Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]


class PeerFlag(Body):
    """Whether a tenant is another site."""

    peer: bool


def build_router(runtime: Runtime) -> APIRouter:
    """Further routes under /admin/v1; all want the admin key."""
    router = APIRouter(
        prefix="/admin/v1", tags=["admin"], dependencies=[Depends(runtime.door.check_admin)]
    )

    @router.put("/tenants/{tenant}/policy")
    async def set_policy(tenant: str, request: Request) -> dict[str, Any]:
        body = await read_as(runtime, request, Policy)
        return await runtime.db.call(runtime.db.peering.set_policy, tenant, body.policy)

    @router.put("/tenants/{tenant}/peer")
    async def set_peer(tenant: str, request: Request) -> dict[str, Any]:
        body = await read_as(runtime, request, PeerFlag)
        row = await runtime.db.call(runtime.db.peering.set_peer, tenant, body.peer)
        runtime.door.forget_keys()
        return row

    @router.get("/peers")
    async def list_peers() -> dict[str, Any]:
        rows = await runtime.db.call(runtime.db.peering.costs)
        return {
            "site": runtime.settings.federation.site,
            "region": runtime.settings.federation.region,
            "data": _peers(runtime),
            "costs": [row | {"cost_usd": usd(row["cost_micro_usd"])} for row in rows],
        }

    return router


def _peers(runtime: Runtime) -> list[dict[str, Any]]:
    return [
        {
            "peer": engine.peer.name,
            "model": engine.state.model.partition("/")[2],
            "region": engine.peer.region,
            "data_policy": sorted(engine.peer.promises),
            "phase": engine.state.phase,
            "running": runtime.dispatcher.running_on(engine),
            "max_concurrent": engine.peer.max_concurrent,
            "input_micro_usd_per_1k": engine.peer.price.input_micro_usd_per_1k,
            "output_micro_usd_per_1k": engine.peer.price.output_micro_usd_per_1k,
        }
        for engine in runtime.dispatcher.pool.engines
        if engine.peer is not None
    ]
