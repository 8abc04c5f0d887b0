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
from fastapi import FastAPI
from ray import serve

from marketplace.gateway import GatewaySettings, build_app
from marketplace.ray_session import RaySession

APP = "gateway"
_MAX_ONGOING_REQUESTS = 1024
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
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(application(settings), name=APP, route_prefix="/")


def application(settings: GatewaySettings) -> Any:
    """The Serve application: one replica, because the dispatcher's queue lives in it."""

    def build() -> FastAPI:
        return build_app(settings, behind_serve=True)

    deployment = serve.deployment(
        name=APP,
        num_replicas=1,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=1.0,
        ray_actor_options={"num_cpus": 0.1},
    )
    return deployment(serve.ingress(build)()).bind()


def _end_with_parent(session: RaySession) -> None:
    sys.stdin.buffer.read()
    session.clean()
    os._exit(1)


if __name__ == "__main__":
    main()
