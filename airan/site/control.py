"""The `control` process: `python -m airan.site.control STATE_DIR`."""

from __future__ import annotations

from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, serve


def settings_of(runtime: SiteRuntime) -> ControlSettings:
    """The orchestrator's settings on this site."""
    config = runtime.config
    policy = config.policy
    return ControlSettings(
        site=config.name,
        state_dir=config.state_dir,
        site_started_s=runtime.started_s,
        host=HOST,
        port=config.ports.control,
        gpu=config.node.gpu,
        n_gpus=config.node.n_gpus,
        mig_create_ms=config.node.mig_create_ms,
        mig_destroy_ms=config.node.mig_destroy_ms,
        policy=Policy(
            kind=policy.kind,
            ran_share=policy.ran_share,
            headroom=policy.headroom,
            min_ran_share=policy.min_ran_share,
            min_lease_s=policy.min_lease_s,
            notice_ms=policy.notice_ms,
        ),
        interval_ms=policy.interval_ms,
        metrics_port=config.ports.metrics,
        database_url=config.control.database_url,
    )


def main(runtime: SiteRuntime) -> None:
    """Serves until stopped."""
    settings = settings_of(runtime)
    run_until_signal(lambda stop: serve(settings, stop))


if __name__ == "__main__":
    raise SystemExit(service_main(main))
