"""The gateway of a replay, as a process of its own, without Ray:
`python -m airan.bench.replay.market FOLDER PORT ENGINE_PORT MODEL`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn

from airan.bench.replay.engine import N_CTX
from airan.bench.replay.tenants import PRICES
from marketplace.dispatch import ModelOffer
from marketplace.gateway import GatewaySettings, build_app


def main(folder: str, port: str, engine_port: str, model: str) -> int:
    """Serves until told to stop."""
    settings = GatewaySettings(
        models=(ModelOffer(model, N_CTX, PRICES["default"]),),
        engine_urls=(f"http://127.0.0.1:{engine_port}",),
        state_dir=Path(folder),
        port=int(port),
        admin_key=os.environ["AIRAN_BENCH_ADMIN_KEY"],
    )
    uvicorn.run(
        build_app(settings), host="127.0.0.1", port=int(port), log_level="warning", access_log=False
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
