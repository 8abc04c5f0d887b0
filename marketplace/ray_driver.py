"""The process that drives Ray: it brings up Ray Serve with the gateway and ends with its parent.

Started by marketplace.serving as `python -m marketplace.ray_driver`, with the settings pickled on
its standard input, which stays open as long as the parent lives.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from marketplace.gateway import GatewaySettings
from marketplace.ray_session import RaySession
from marketplace.replica import HEALTH_S, Gateway

APP = "gateway"
_OBJECT_STORE_BYTES = 80 << 20


def main() -> None:
    """Serves until standard input ends; then leaves nothing of the session behind."""
    settings: GatewaySettings = pickle.load(sys.stdin.buffer)
    session = RaySession(settings.state_dir, settings.temp_dir)
    threading.Thread(target=_end_with_parent, args=(session,), daemon=True).start()
    start(settings, session)
    threading.Event().wait()


def start(settings: GatewaySettings, session: RaySession) -> None:
    """Brings Ray and the application up; takes about ten seconds."""
    start_ray(session)
    serve.start(proxy_location=ProxyLocation.Disabled)
    serve.run(application(settings), name=APP, route_prefix=None)


def start_ray(session: RaySession) -> None:
    """Brings up a Ray of the session's own."""
    ray.init(
        num_cpus=2,
        num_gpus=0,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        configure_logging=False,
        namespace=f"airan-{session.name}",
        _temp_dir=str(session.temp_dir),
    )


def application(settings: GatewaySettings) -> Any:
    """The Serve application: a replica a gateway, each with a dispatcher of its own."""
    deployment = serve.deployment(
        name=APP,
        num_replicas=settings.gateways,
        health_check_period_s=2.0,
        health_check_timeout_s=HEALTH_S,
        graceful_shutdown_timeout_s=1.0,
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment(Gateway).bind(settings)


def _end_with_parent(session: RaySession) -> None:
    sys.stdin.buffer.read()
    session.clean()
    os._exit(1)


if __name__ == "__main__":
    main()
