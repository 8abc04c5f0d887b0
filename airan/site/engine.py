"""The `engine` process: `python -m airan.site.engine STATE_DIR`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import marketplace
from airan.core.config import SiteConfig
from airan.site.catalogue import file_sources, model_cache
from airan.site.cell_sizing import sm_count
from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from airan.site.services import board_file, runs_mps
from marketplace import models
from marketplace.catalogue.precache import Precacher
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.agent_server import run_agent
from marketplace.engines.hosts import GpuAccess
from marketplace.engines.replicas import run_replicas
from marketplace.engines.shelf import FurtherModel, run_shelf
from marketplace.engines.vllm_host import VllmSettings
from orchestrator.drivers.environment import folders_in

NAME = "engine-0"


def settings_of(runtime: SiteRuntime) -> EngineAgentSettings:
    """The engine agent's settings on this site."""
    config, vllm = runtime.config, vllm_settings(runtime)
    if vllm is None:
        model_path = models.cached_path(config.model.name, config.cache_dir)
    else:
        model_path = vllm.model_path
    return EngineAgentSettings(
        name=NAME,
        model=config.model.name,
        model_path=model_path,
        vllm=vllm,
        host=HOST,
        port=config.ports.engine,
        control_target=runtime.control_address,
        n_ctx=config.model.n_ctx,
        max_concurrent=config.model.max_concurrent,
        n_threads=config.model.n_threads,
        idle_s=config.model.idle_s,
        adapters_dir=config.state_dir / "adapters",
        sm_per_stream=_sm_per_stream(config),
    )


def _sm_per_stream(config: SiteConfig) -> int:
    """SMs of the lease for each request: so many that vLLM on a real GPU has all of its requests
    with about all of the SMs; llama.cpp's are the fewer ones of a simulated GPU's slices."""
    usual = EngineAgentSettings.sm_per_stream
    if config.model.vllm is None or config.node.driver != "nvml":
        return usual
    return min(usual, max(1, sm_count(config) // config.model.max_concurrent))


def vllm_settings(runtime: SiteRuntime) -> VllmSettings | None:
    """How vLLM serves the site's own model, if it does."""
    model = runtime.config.model
    if (vllm := model.vllm) is None:
        return None
    args, env = gear_options(runtime)
    return VllmSettings(
        vllm.path.expanduser().absolute(),
        model.name,
        # Not resolved: what a link in an environment points to is another Python.
        vllm.python.expanduser().absolute(),
        runtime.run_dir / "vllm.log",
        model.n_ctx,
        model.max_concurrent,
        (*args, *vllm.args),
        env | vllm.env,
        vllm.start_timeout_s,
        gpu_access(runtime),
        vllm.between_leases,
        vllm.sleep_level,
        vllm.max_adapters,
        vllm.max_adapter_rank,
    )


def gpu_access(runtime: SiteRuntime) -> GpuAccess | None:
    """How the engine gets to its lease's partition; None where GPUs are simulated.

    Raises:
        ConfigError: the GPU's number of SMs is not known.
    """
    config = runtime.config
    if config.node.driver != "nvml":
        return None
    folders = folders_in(config.state_dir) if runs_mps(config) else None
    return GpuAccess(sm_count(config), folders, config.gpu.ai_memory_mib)


def gear_options(runtime: SiteRuntime) -> tuple[tuple[str, ...], dict[str, str]]:
    """Options and environment of a vLLM that changes gear with Layer 1 on the GPU."""
    if runtime.config.gpu.layer1 != "gpu":
        return (), {}
    module = "marketplace.engines.vllm_gears"
    here = str(Path(marketplace.__file__).parents[1])
    args = (f"--worker-cls={module}.GearWorker", f"--scheduler-cls={module}.GearScheduler")
    return args, {"AIRAN_SM_BOARD": str(board_file(runtime)), "PYTHONPATH": here}


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
