"""The gateway on Ray Serve: starts a private local Ray, watches it, and leaves nothing of it."""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import psutil

from marketplace.asgi import bind
from marketplace.gateway.settings import GatewaySettings
from marketplace.ray_session import MARK, RaySession
from marketplace.watchdog import Watchdog

log = logging.getLogger(__name__)

_START_S = 90.0
_HEAL_S = 30.0
"""How long Ray Serve may take to replace a dead replica before all is started anew."""
_PROBE_S = 1.0
_START_PROBE_S = 0.2
_PROBE_TIMEOUT_S = 5.0
_VITAL = ("gcs_server", "raylet")
"""Ray does not replace these, and is of no use without them."""


def run_serving(
    settings: GatewaySettings,
    stop: threading.Event,
    *,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """The whole `gateway` process: serves until `stop` is set. Returns the process's exit code.

    0 after `stop`; 1 when Ray broke and everything of it was cleaned up: start it again. What an
    earlier gateway of the same state folder left behind is killed first. `on_ready` is called
    when the gateway first answers.

    Raises:
        PortInUseError: a port is taken.
    """
    session = RaySession(settings.state_dir, settings.temp_dir)
    if n_left := session.clean():
        log.warning("killed %d processes that an earlier gateway left behind", n_left)
    bind(settings.host, settings.port, "the gateway", "ports.gateway").close()
    if settings.grpc_port:
        bind(settings.host, settings.grpc_port, "gRPC", "market.grpc_port").close()
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    session.claim_temp_dir()
    # Before there is any gateway: what it finds is from an earlier life.
    watchdog = Watchdog(settings.gateways_dir, session)
    driver = _start_driver(settings, session)
    url = f"http://{settings.host}:{settings.port}"
    try:
        with watchdog:
            return _watch(url, session, driver, stop, on_ready)
    finally:
        driver.kill()
        driver.wait()
        session.clean()
        if driver.stdin is not None:
            driver.stdin.close()


def _start_driver(settings: GatewaySettings, session: RaySession) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        MARK: session.name,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A token of this session's own: nobody else on the machine can hand work to our Ray, and
        # Ray leaves no token in the user's home.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray serves figures of its own at two ports, 44217 and 44227 unless told otherwise: another
        # site's Ray, or another service, may have them.
        "AUTOSCALER_METRIC_PORT": "0",
        "DASHBOARD_METRIC_PORT": "0",
    }
    driver = subprocess.Popen(
        [sys.executable, "-m", "marketplace.ray_driver"],
        stdin=subprocess.PIPE,
        env=environment,
        # Ctrl-C is for us: we end Ray, and not the terminal.
        start_new_session=True,
    )
    session.remember(driver.pid)
    assert driver.stdin is not None
    pickle.dump(settings, driver.stdin)
    driver.stdin.flush()
    return driver


def _watch(
    url: str,
    session: RaySession,
    driver: subprocess.Popen[bytes],
    stop: threading.Event,
    on_ready: Callable[[], None] | None,
) -> int:
    """Returns 0 when told to stop, 1 when Ray is broken beyond what it heals itself."""
    vital: list[psutil.Process] = []
    patience_s = time.monotonic() + _START_S
    with httpx.Client(base_url=url, timeout=_PROBE_TIMEOUT_S, trust_env=False) as http:
        while not stop.wait(_PROBE_S if vital else _START_PROBE_S):
            if (code := driver.poll()) is not None:
                log.error("Ray's driver ended with code %d", code)
                return 1
            if dead := [process.pid for process in vital if not _alive(process)]:
                log.error("Ray is broken: process %s has died", dead)
                return 1
            if _answers(http):
                patience_s = time.monotonic() + _HEAL_S
                if not vital:
                    vital = [one for one in session.processes() if _name(one) in _VITAL]
                    if on_ready is not None:
                        on_ready()
            elif time.monotonic() > patience_s:
                log.error("the gateway at %s has not answered for too long", url)
                return 1
    return 0


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
