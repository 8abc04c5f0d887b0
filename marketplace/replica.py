"""The gateway inside Ray Serve's replica."""

from __future__ import annotations

import gc
import sys

import httpx

from marketplace.asgi import ServingThread, bind
from marketplace.gateway import GatewaySettings, build_app

HEALTH_S = 10.0
"""For so long an answer is waited for."""
_SWITCH_S = 0.0005
"""Within this time Ray's threads give the interpreter back to the server; Python's own is 5 ms."""


class Gateway:
    """What Serve keeps alive: the HTTP server in its replica, which listens by itself (ADR 14)."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._serving: ServingThread | None = None
        self._url = f"http://{settings.host}:{settings.port}/healthz"
        # One client for all checks: a new one each time would read the CA certificates again.
        self._http = httpx.Client(timeout=HEALTH_S, trust_env=False, verify=False)
        # Of a replica that was given up, the port may not be free yet: Serve tries again then.
        listener = bind(settings.host, settings.port, "the gateway", "ports.gateway")
        self._serving = ServingThread(build_app(settings), listener)
        self._serving.start()
        sys.setswitchinterval(_SWITCH_S)
        # What was imported stays: the collector need not walk through it while streams wait.
        gc.collect()
        gc.freeze()

    def check_health(self) -> None:
        """Raises when the server has ended or does not answer; Serve starts another replica."""
        if self._serving is not None:
            self._serving.check()
        self._http.get(self._url).raise_for_status()

    def __del__(self) -> None:
        """Serve calls it when it wants the replica to end."""
        if self._serving is not None:
            self._serving.stop()
