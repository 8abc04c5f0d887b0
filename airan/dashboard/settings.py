"""What the dashboard process needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field

from airan.core.clock import DayClock
from airan.site.runtime import HOST, SiteRuntime
from airan.site.supervision_log import SupervisionLog


@dataclass(frozen=True)
class DashboardSettings:
    """Where the dashboard listens, and whom it reads."""

    site: str
    control_address: str
    """gRPC address of the orchestrator, e.g. "127.0.0.1:50051"."""
    gateway_url: str
    admin_key: str = field(repr=False)
    day: DayClock
    host: str = HOST
    port: int = 0
    """0 takes a free one; `serve` tells which."""
    interval_s: float = 1.0
    history_s: float = 1800.0
    """How far back the charts reach on a page opened now."""
    supervision: SupervisionLog | None = None
    """What the supervisor did; None: it is not shown."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header that are served beside loopback's and `host` itself."""

    @classmethod
    def of(cls, runtime: SiteRuntime) -> DashboardSettings:
        """The settings of the site `runtime`."""
        return cls(
            site=runtime.config.name,
            control_address=runtime.control_address,
            gateway_url=runtime.gateway_url,
            admin_key=runtime.admin_key,
            day=runtime.day_clock,
            port=runtime.config.ports.dashboard,
            supervision=runtime.supervision,
        )
