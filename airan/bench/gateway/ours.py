"""Our gateway before the simulated engine, as a process of its own:
`python -m airan.bench.gateway.ours FOLDER PORT ENGINE_PORT alone|ray`."""

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
    if how == "ray":
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        return run_serving(settings, stop)
    uvicorn.run(
        build_app(settings), host="127.0.0.1", port=int(port), log_level="warning", access_log=False
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
