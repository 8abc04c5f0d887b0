"""Our gateway before the simulated engine, as a process of its own:
`python -m airan.bench.gateway.ours FOLDER PORT ENGINE_PORT alone|ray|proxy`.

`ray`: as `airan up` runs it, kept by Ray Serve and listening by itself. `proxy`: behind Serve's
HTTP proxy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import uvicorn

from airan.bench.gateway.engine import MODEL, N_SLOTS
from marketplace.dispatch import ModelOffer
from marketplace.gateway import GatewaySettings, build_app
from marketplace.money import Price
from marketplace.ray_session import MARK, RaySession
from marketplace.serving import run_serving


def main(folder: str, port: str, engine_port: str, how: str) -> int:
    """Serves until told to stop."""
    os.environ["AIRAN_BENCH_FOLDER"] = folder
    settings = GatewaySettings(
        models=(ModelOffer(MODEL, 4096, Price.from_usd(0.01, 0.03)),),
        engine_urls=(f"http://127.0.0.1:{engine_port}",),
        state_dir=Path(folder),
        port=int(port),
        admin_key=os.environ["AIRAN_BENCH_ADMIN_KEY"],
        max_waiting=4 * N_SLOTS,
    )
    if how != "alone":
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        return run_serving(settings, stop) if how == "ray" else _behind_proxy(settings, stop)
    uvicorn.run(
        build_app(settings), host="127.0.0.1", port=int(port), log_level="warning", access_log=False
    )
    return 0


def _behind_proxy(settings: GatewaySettings, stop: threading.Event) -> int:
    # Of the other ways nobody waits for Ray's import, nor is its memory counted.
    from ray import serve

    from marketplace.ray_driver import start_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    session = RaySession(settings.state_dir, settings.temp_dir)
    os.environ[MARK] = session.name
    session.claim_temp_dir()
    try:
        start_ray(session)
        serve.start(http_options={"host": settings.host, "port": settings.port})
        deployment = serve.deployment(max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
        served = deployment(serve.ingress(lambda: build_app(settings))())
        serve.run(served.bind(), route_prefix="/")
        stop.wait()
    finally:
        session.clean()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
