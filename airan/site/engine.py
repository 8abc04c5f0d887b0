"""The `engine` process: `python -m airan.site.engine STATE_DIR`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from airan.site.catalogue import file_sources, model_cache
from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from marketplace import models
from marketplace.catalogue.precache import Precacher
from marketplace.engines.agent import EngineAgentSettings, run_agent
from marketplace.engines.replicas import run_replicas
from marketplace.engines.shelf import FurtherModel, run_shelf

NAME = "engine-0"


def settings_of(runtime: SiteRuntime) -> EngineAgentSettings:
    """The engine agent's settings on this site."""
    config = runtime.config
    return EngineAgentSettings(
        name=NAME,
        model=config.model.name,
        model_path=models.cached_path(config.model.name, config.cache_dir),
        host=HOST,
        port=config.ports.engine,
        control_target=runtime.control_address,
        n_ctx=config.model.n_ctx,
        max_concurrent=config.model.max_concurrent,
        n_threads=config.model.n_threads,
        idle_s=config.model.idle_s,
    )


def further_models(runtime: SiteRuntime) -> list[FurtherModel]:
    """The further models of our own on this site."""
    config = runtime.config
    return [
        FurtherModel(
            replace(
                settings_of(runtime),
                model=model.name,
                model_path=model_cache(config).path_of(source),
                n_ctx=model.n_ctx,
                max_concurrent=model.max_concurrent,
                n_threads=model.n_threads,
                embeddings=model.kind == "embeddings",
                pooling=model.pooling,
                idle_s=model.idle_s,
            ),
            source,
            model.sm_count,
        )
        for model, source in zip(config.llama_models, file_sources(config), strict=True)
    ]


def main(runtime: SiteRuntime) -> None:
    """Serves until stopped."""
    settings, model = settings_of(runtime), runtime.config.model
    further, cache = further_models(runtime), model_cache(runtime.config)
    Precacher(cache, [one.source for one in further]).start()

    async def run(stop: asyncio.Event) -> None:
        if further:
            await run_shelf(settings, further, cache, stop)
        elif model.max_replicas == 1:
            await run_agent(settings, stop)
        else:
            n_replicas, sm_per_replica = model.max_replicas, model.sm_per_replica
            await run_replicas(settings, stop, n_replicas=n_replicas, sm_per_replica=sm_per_replica)

    run_until_signal(run)


if __name__ == "__main__":
    raise SystemExit(service_main(main))
