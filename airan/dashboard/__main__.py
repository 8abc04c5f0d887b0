"""`python -m airan.dashboard STATE_DIR` serves the dashboard until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from airan.core.errors import AiranError
from airan.dashboard.app import serve
from airan.dashboard.settings import DashboardSettings
from airan.site.runtime import load


async def _serve_until_signal(settings: DashboardSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop, on_ready=lambda url: print(url, flush=True))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 after a stop signal, 2 when it cannot start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m airan.dashboard STATE_DIR", file=sys.stderr)
        return 2
    try:
        asyncio.run(_serve_until_signal(DashboardSettings.of(load(Path(arguments[0])))))
    except AiranError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
