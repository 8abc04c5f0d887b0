"""What the dashboard process needs to know."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from airan.core.clock import DayClock
from airan.core.errors import ConfigError


@dataclass(frozen=True)
class DashboardSettings:
    """Where the dashboard listens, and whom it reads."""

    site: str
    control_target: str
    """gRPC address of the orchestrator, e.g. "127.0.0.1:50051"."""
    gateway_url: str
    admin_key: str = field(repr=False)
    day: DayClock
    host: str = "127.0.0.1"
    port: int = 8090
    """0 takes a free one; `serve` tells which."""
    interval_s: float = 1.0
    history_s: float = 1800.0
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header that are served beside loopback's and `host` itself."""

    def to_json(self) -> str:
        """For `python -m airan.dashboard FILE`; holds the admin key, so keep the file private."""
        return json.dumps(asdict(self))

    @classmethod
    def from_file(cls, path: Path) -> DashboardSettings:
        """Reads what `to_json` wrote.

        Raises:
            ConfigError: the file cannot be read or has another form.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["day"] = DayClock(**values["day"])
            values["allowed_hosts"] = tuple(values.get("allowed_hosts", ()))
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"dashboard settings {path} cannot be read: {error}",
                remedy="write them with DashboardSettings.to_json()",
            ) from error
