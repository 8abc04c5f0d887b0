"""The `control` process: `python -m airan.site.control STATE_DIR`."""

from __future__ import annotations

from airan.core.config import ControlConfig, SiteConfig
from airan.core.errors import ConfigError
from airan.site.main import run_until_signal, service_main
from airan.site.runtime import HOST, SiteRuntime
from orchestrator.alarm import AlarmSettings
from orchestrator.api.security import TlsFiles
from orchestrator.demand import DemandSettings
from orchestrator.drivers.pool import PoolSettings
from orchestrator.forecast import ForecastSettings
from orchestrator.policy import Policy
from orchestrator.service import (
    ControlSettings,
    NodeOpener,
    RemoteSettings,
    open_nvml,
    open_simulated,
    serve,
)

LOST_SLOTS_ON_GPU = 20
"""Of the 1,000 in half a second, or the 40 in the 20 ms between two reports of an alarm; or so many
such reports within the time in which near misses count."""
P99_SLOTS_ON_GPU = 100
"""Of the 200 that the uplink has in half a second: between two reports of an alarm it has eight."""


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
        partition=config.node.partition,
        mig_create_ms=config.node.mig_create_ms,
        mig_destroy_ms=config.node.mig_destroy_ms,
        policy=Policy(
            kind=policy.kind,
            ran_share=policy.ran_share,
            headroom=policy.headroom,
            min_ran_share=policy.min_ran_share,
            min_lease_s=policy.min_lease_s,
            notice_ms=policy.notice_ms,
            time_zone=config.time_zone,
        ),
        interval_ms=policy.interval_ms,
        alarm=_alarm(config),
        metrics_port=config.ports.metrics,
        remote=_remote(config.control),
        database_url=config.control.database_url,
        demand=DemandSettings(season=ForecastSettings(time_zone=config.time_zone)),
    )


def _alarm(config: SiteConfig) -> AlarmSettings:
    """Layer 1 on the GPU has answered single slots by its gears before they are reported: leases
    are taken back when that does not help."""
    if config.gpu.layer1 == "gpu":
        n_lost = LOST_SLOTS_ON_GPU
        return AlarmSettings(lost_slots=n_lost, near_misses=n_lost, p99_slots=P99_SLOTS_ON_GPU)
    return AlarmSettings()


def _remote(config: ControlConfig) -> RemoteSettings | None:
    if not config.remote_host:
        return None
    if config.tls_dir is None or not config.remote_port:
        raise ConfigError(
            "control.remote_host needs control.remote_port and control.tls_dir",
            remedy="make certificates with `airan certs make`",
        )
    tls = TlsFiles.of(config.tls_dir, "server")
    return RemoteSettings(config.remote_host, config.remote_port, tls)


def main(runtime: SiteRuntime) -> None:
    """Serves until stopped."""
    settings = settings_of(runtime)
    open_node = _opener(runtime.config)
    run_until_signal(lambda stop: serve(settings, stop, open_node=open_node))


def _opener(config: SiteConfig) -> NodeOpener:
    node = config.node
    if not node.cluster:
        return open_nvml if node.driver == "nvml" else open_simulated
    # Ray takes a second to import, which only those with a cluster need to wait.
    from airan.site.nodes import ClusterSettings, in_cluster

    pool = PoolSettings(lost_after_s=node.lost_after_s)
    return in_cluster(ClusterSettings(node.cluster, f"airan-{config.name}", pool, node.driver))


if __name__ == "__main__":
    raise SystemExit(service_main(main))
