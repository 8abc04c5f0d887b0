"""What every service process does around its own work: logging, stop signals, error exits."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from airan.core.errors import AiranError, PermanentError
from airan.site import runtime as site_runtime
from airan.site.runtime import SiteRuntime
from orchestrator.tracing import JsonFormatter

EXIT_PERMANENT = 78
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def service_main(work: Callable[[SiteRuntime], int | None]) -> int:
    """Runs one service for the site whose state folder is the only argument."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        runtime = site_runtime.load(Path(sys.argv[1]))
        if runtime.config.log_format == "json":
            for handler in logging.getLogger().handlers:
                handler.setFormatter(JsonFormatter())
        return work(runtime) or 0
    except AiranError as error:
        logging.getLogger("airan").error("%s", error)
        return EXIT_PERMANENT if isinstance(error, PermanentError) else 1
    except KeyboardInterrupt:
        return 0


def run_until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs asynchronous work, whose event is set by SIGTERM or SIGINT."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(main())


def stop_event() -> threading.Event:
    """An event for threads that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
