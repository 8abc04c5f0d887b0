"""The engine of a replay, as a process of its own: llama.cpp on a lease of the control plane.
`python -m airan.bench.replay.engine CONTROL_TARGET PORT MODEL MODEL_PATH THREADS`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.agent_server import run_agent

N_CTX = 2048
N_SLOTS = 4
HOLDER = "engine-0"


async def _serve(settings: EngineAgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_agent(settings, stop)


def main(control: str, port: str, model: str, model_path: str, threads: str) -> int:
    """Serves until told to stop."""
    settings = EngineAgentSettings(
        name=HOLDER,
        model=model,
        model_path=Path(model_path),
        port=int(port),
        control_target=control,
        n_ctx=N_CTX,
        max_concurrent=N_SLOTS,
        n_threads=int(threads),
        background=False,
    )
    asyncio.run(_serve(settings))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
