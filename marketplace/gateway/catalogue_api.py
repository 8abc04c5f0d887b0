"""The operator's view of the models on offer and of their files: /admin/v1/catalogue."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends

from marketplace.catalogue.cache import ModelCache
from marketplace.gateway.runtime import Runtime


def build_router(runtime: Runtime) -> APIRouter:
    """The route /admin/v1/catalogue; it wants the admin key."""
    settings = runtime.settings
    cache = ModelCache(settings.cache_dir.expanduser(), settings.state_dir)
    sources = {source.name: source for source in settings.catalogue}
    external = {model.name for model in settings.external}
    router = APIRouter(
        prefix="/admin/v1", tags=["admin"], dependencies=[Depends(runtime.door.check_admin)]
    )

    def caching(name: str) -> dict[str, Any] | None:
        source = sources.get(name)
        return None if source is None else cache.look(source).to_dict()

    @router.get("/catalogue")
    async def show_catalogue() -> dict[str, Any]:
        """Every model; `caching` is null where the gateway knows of no file to be fetched."""
        found = await asyncio.to_thread(lambda: {name: caching(name) for name in runtime.offers})
        return {
            "data": [
                {
                    "name": name,
                    "engine": "external" if name in external else "llamacpp",
                    "caching": found[name],
                    "phases": _phases(runtime, name),
                }
                for name in runtime.offers
            ]
        }

    return router


def _phases(runtime: Runtime, model: str) -> list[str]:
    states = (one.state for one in runtime.dispatcher.pool.engines)
    return [state.phase for state in states if state.model == model]
