"""The gateway inside Ray Serve's replica."""

from __future__ import annotations

import gc
import os
import sys

import httpx

from marketplace.asgi import ServingThread, bind
from marketplace.gateway import GatewaySettings, build_app
from marketplace.watchdog import note_gateway

HEALTH_S = 10.0
"""For so long an answer is waited for."""
OWN_HOST = "127.0.0.1"
_SWITCH_S = 0.0005
"""Within this time Ray's threads give the interpreter back to the server; Python's own is 5 ms."""


class Gateway:
    """What Serve keeps alive: the HTTP server in its replica, which listens by itself (ADR 14)."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._serving: ServingThread | None = None
        # One client for all checks: a new one each time would read the CA certificates again.
        self._http = httpx.Client(timeout=HEALTH_S, trust_env=False, verify=False)
        # Of a replica that was given up, the port may not be free yet: Serve tries again then.
        shared = settings.gateways > 1
        public = bind(settings.host, settings.port, "the gateway", "ports.gateway", shared=shared)
        # Whoever asks at the public port may get any of the replicas: here it is this one.
        own = bind(OWN_HOST, 0, "the gateway's own address", "ports.gateway")
        own_port = own.getsockname()[1]
        self.own_url = f"http://{OWN_HOST}:{own_port}"
        app = build_app(settings, own_url=self.own_url)
        self._serving = ServingThread(app, public, own)
        self._serving.start()
        note_gateway(settings.gateways_dir, os.getpid(), own_port)
        sys.setswitchinterval(_SWITCH_S)
        # What was imported stays: the collector need not walk through it while streams wait.
        gc.collect()
        gc.freeze()

    def check_health(self) -> None:
        """Raises when the server has ended or does not answer; Serve starts another replica."""
        if self._serving is not None:
            self._serving.check()
        self._http.get(f"{self.own_url}/healthz").raise_for_status()

    def __del__(self) -> None:
        """Serve calls it when it wants the replica to end."""
        if self._serving is not None:
            self._serving.stop()
