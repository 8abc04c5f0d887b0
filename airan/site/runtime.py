"""The resolved runtime of one site: what every process of it, and every client, needs to know.

`airan up` resolves the configuration once (free ports, day clock, admin key) and writes it to
`<state_dir>/run/site.json`, readable by the owner alone. Processes and the CLI read it from there,
so a restarted process comes back with the same ports, the same day clock and the same keys.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from airan.core.clock import DAY_S, DayClock
from airan.core.config import PortsConfig, SiteConfig
from airan.core.errors import ConfigError, NotFoundError, PortInUseError
from airan.core.ports import bound_to_free_port
from airan.site.supervision_log import SupervisionLog

HOST = "127.0.0.1"


@dataclass(frozen=True)
class SiteRuntime:
    """A site's configuration with everything left open in it decided."""

    config: SiteConfig
    instance: str
    """Marks every process of this site's run, in its environment."""
    started_s: float
    """Unix seconds at which the site, and its day clock, started."""
    start_of_day_s: float
    admin_key: str

    @property
    def run_dir(self) -> Path:
        return run_dir(self.config.state_dir)

    @property
    def log_dir(self) -> Path:
        return self.config.state_dir / "log"

    @property
    def supervision(self) -> SupervisionLog:
        """What the supervisor did in this run."""
        return SupervisionLog(self.log_dir, self.started_s)

    @property
    def day_clock(self) -> DayClock:
        clock = self.config.clock
        return DayClock(self.started_s, self.start_of_day_s, clock.speed, clock.hold_after_s)

    @property
    def control_address(self) -> str:
        return f"{HOST}:{self.config.ports.control}"

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.config.ports.gateway}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{HOST}:{self.config.ports.dashboard}"

    @property
    def metrics_url(self) -> str:
        return f"http://{HOST}:{self.config.ports.metrics}"

    @property
    def engine_url(self) -> str:
        return f"http://{HOST}:{self.config.ports.engine}"

    def save(self) -> None:
        """Writes `run/site.json` atomically, mode 0600."""
        self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Prompts and answers are below: nobody else may look, whoever made the folder.
        self.config.state_dir.chmod(0o700)
        body = {
            "config": self.config.model_dump(mode="json"),
            "instance": self.instance,
            "started_s": self.started_s,
            "start_of_day_s": self.start_of_day_s,
            "admin_key": self.admin_key,
        }
        write_private(self.run_dir / "site.json", json.dumps(body, indent=2))


def run_dir(state_dir: Path) -> Path:
    """The folder of locks, pid files and `site.json`."""
    return state_dir / "run"


def write_private(path: Path, text: str) -> None:
    """Replaces `path` with `text` in one step; only the owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def resolve(config: SiteConfig) -> SiteRuntime:
    """Decides what the configuration leaves open: free ports, the day clock's start, the keys.

    Raises:
        PortInUseError: a port named in the configuration is taken, or named twice.
        ConfigError: `clock.start` is no time of day.
    """
    config = config.model_copy(update={"ports": _resolve_ports(config.ports)})
    _check_grpc_port(config.market.grpc_port, config.ports)
    now_s = time.time()
    return SiteRuntime(
        config=config,
        instance=secrets.token_hex(8),
        started_s=now_s,
        start_of_day_s=_start_of_day_s(config.clock.start, now_s),
        admin_key=_admin_key(config.state_dir),
    )


def load(state_dir: Path) -> SiteRuntime:
    """Reads the runtime of the site that was last started in `state_dir`.

    Raises:
        NotFoundError: no site has been started there.
    """
    path = run_dir(state_dir) / "site.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no site has been started in {state_dir}",
            remedy="start one with `airan up`, or name its folder with --state-dir",
        ) from error
    except PermissionError as error:
        raise NotFoundError(
            f"{path} cannot be read", remedy="run as the user that started the site"
        ) from error
    return SiteRuntime(
        config=SiteConfig.model_validate(body["config"]),
        instance=body["instance"],
        started_s=body["started_s"],
        start_of_day_s=body["start_of_day_s"],
        admin_key=body["admin_key"],
    )


def _start_of_day_s(start: str, now_s: float) -> float:
    if start == "now":
        local = time.localtime(now_s)
        return local.tm_hour * 3600.0 + local.tm_min * 60.0 + local.tm_sec
    hours, minutes = (int(part) for part in start.split(":"))
    seconds = hours * 3600.0 + minutes * 60.0
    if seconds >= DAY_S:
        raise ConfigError(
            f"clock.start: {start!r} is no time of day", remedy="give HH:MM below 24:00"
        )
    return seconds


def _admin_key(state_dir: Path) -> str:
    path = state_dir / "admin.key"
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = f"airan-admin-{secrets.token_urlsafe(32)}"
    write_private(path, key + "\n")
    return key


def _check_grpc_port(port: int, ports: PortsConfig) -> None:
    """Raises PortInUseError unless the port for invocations over gRPC, if any, can be had."""
    if not port:
        return
    problem = "is given to two services" if port in ports.model_dump().values() else ""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            problem = problem or f"on {HOST} is in use by another process"
    if problem:
        raise PortInUseError(
            f"market.grpc_port: port {port} {problem}",
            remedy="set AIRAN_MARKET__GRPC_PORT to a free port, or to 0 for no gRPC",
        )


def _resolve_ports(ports: PortsConfig) -> PortsConfig:
    wanted = ports.model_dump()
    named = [port for port in wanted.values() if port]
    for name, port in wanted.items():
        if named.count(port) > 1:
            raise PortInUseError(
                f"ports.{name}: port {port} is given to two services",
                remedy="give every service a port of its own, or 0 for a free one",
            )
    held: list[socket.socket] = []
    try:
        for name, port in wanted.items():
            if not port:
                held.append(bound_to_free_port(HOST))
                wanted[name] = held[-1].getsockname()[1]
                continue
            listener = socket.socket()
            held.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError as error:
                raise PortInUseError(
                    f"ports.{name}: port {port} on {HOST} is in use by another process",
                    remedy=f"stop that process, or set AIRAN_PORTS__{name.upper()} "
                    "to another port (0 picks a free one)",
                ) from error
    finally:
        for listener in held:
            listener.close()
    return PortsConfig.model_validate(wanted)
