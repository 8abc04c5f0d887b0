"""What runs beside the requests of a gateway, from its start to its stop."""

from __future__ import annotations

import asyncio

from marketplace.gateway.idempotency import purge_regularly
from marketplace.gateway.runtime import Runtime


class Background:
    """Use start() once the runtime is up, and stop() before it goes down."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Goes on beside the requests, with what an earlier gateway left too."""
        db = self._runtime.db
        await self._runtime.functions.start(db, self._runtime.company)
        self._runtime.webhooks.start(db)
        self._tasks = [asyncio.create_task(purge_regularly(self._runtime))]

    async def stop(self) -> None:
        """Ends it all; what is open waits in the database for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runtime.functions.stop()
        await self._runtime.webhooks.stop()
