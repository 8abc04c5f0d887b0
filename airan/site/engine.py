"""The `engine` process: `python -m airan.site.engine STATE_DIR`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from airan.site.catalogue import file_sources, model_cache
from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from marketplace import models
from marketplace.catalogue.precache import Precacher
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.agent_server import run_agent
from marketplace.engines.replicas import run_replicas
from marketplace.engines.shelf import FurtherModel, run_shelf
from marketplace.engines.vllm_host import VllmSettings

NAME = "engine-0"


def settings_of(runtime: SiteRuntime) -> EngineAgentSettings:
    """The engine agent's settings on this site."""
    config, vllm = runtime.config, vllm_settings(runtime)
    cached = models.cached_path(config.model.name, config.cache_dir)
    return EngineAgentSettings(
        name=NAME,
        model=config.model.name,
        model_path=cached if vllm is None else vllm.model_path,
        vllm=vllm,
        host=HOST,
        port=config.ports.engine,
        control_target=runtime.control_address,
        n_ctx=config.model.n_ctx,
        max_concurrent=config.model.max_concurrent,
        n_threads=config.model.n_threads,
        idle_s=config.model.idle_s,
        adapters_dir=config.state_dir / "adapters",
    )


def vllm_settings(runtime: SiteRuntime) -> VllmSettings | None:
    """How vLLM serves the site's own model, if it does."""
    model = runtime.config.model
    if (vllm := model.vllm) is None:
        return None
    return VllmSettings(
        vllm.path.expanduser().absolute(),
        model.name,
        # Not resolved: what a link in an environment points to is another Python.
        vllm.python.expanduser().absolute(),
        runtime.run_dir / "vllm.log",
        model.n_ctx,
        model.max_concurrent,
        vllm.args,
        vllm.env,
        vllm.start_timeout_s,
        vllm.max_adapters,
        vllm.max_adapter_rank,
    )


def further_models(runtime: SiteRuntime) -> list[FurtherModel]:
    """The further models of our own on this site."""
    config = runtime.config
    return [
        FurtherModel(
            replace(
                settings_of(runtime),
                vllm=None,
                model=model.name,
                model_path=model_cache(config).path_of(source),
                n_ctx=model.n_ctx,
                max_concurrent=model.max_concurrent,
                n_threads=model.n_threads,
                embeddings=model.kind == "embeddings",
                pooling=model.pooling,
                idle_s=model.idle_s,
                adapters_dir=None if model.kind == "embeddings" else config.state_dir / "adapters",
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
