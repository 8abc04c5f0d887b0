"""The `engine` process: `python -m airan.site.engine STATE_DIR`."""

from __future__ import annotations

from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from marketplace import models
from marketplace.engines.agent import EngineAgentSettings, run_agent

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
    )


def main(runtime: SiteRuntime) -> None:
    """Serves until stopped."""
    settings = settings_of(runtime)
    run_until_signal(lambda stop: run_agent(settings, stop))


if __name__ == "__main__":
    raise SystemExit(service_main(main))
