"""How long clients wait for an external engine that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from airan.core.errors import UnavailableError
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.text_turns import not_served
from marketplace.jobs import Job
from marketplace.pool import PooledEngine

_LEAST_S = 0.3


class Patience:
    """Ends what waits, with its client, for an external engine that does not come back.

    `fail` ends a job that waits no more.
    """

    def __init__(self, lines: WaitingLines, fail: Callable[[Job, UnavailableError], None]) -> None:
        self._lines = lines
        self._fail = fail
        self._stopped = False

    def begin(self, engine: PooledEngine, patience_s: float) -> None:
        """The engine was lost: from now on so long is waited for it."""
        pause_s = max(patience_s, _LEAST_S)
        asyncio.get_running_loop().call_later(pause_s, self._lose, engine, patience_s)

    def stop(self) -> None:
        """Nobody is told anything any more."""
        self._stopped = True

    def _lose(self, engine: PooledEngine, patience_s: float) -> None:
        if engine.state.phase != "lost" or self._stopped:
            return
        model = engine.state.model
        for job in [ticket.item for ticket in self._lines.of(model)]:
            if job.kind == "sync" and self._lines.leave(job):
                self._fail(job, not_served(model))
        # Streams that broke off only now wait too.
        self.begin(engine, patience_s)
