"""A job's stay on an engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from marketplace.engines.base import FinishReason
from marketplace.jobs import Job
from marketplace.pool import PooledEngine

Cut = Literal["preempt", "cancel"]


@dataclass(eq=False)
class Turn:
    """A job's stay on one slot of one engine."""

    job: Job
    engine: PooledEngine
    slot: int
    task: asyncio.Task[None] | None = None
    cut: Cut | None = None
    begun: bool = False
    reason: FinishReason | None = None
    """Set as soon as the answer is complete; a cut that comes later changes nothing."""

    def end(self, cut: Cut) -> None:
        """Closes the stream to the engine; what was received stays with the job."""
        first = self.cut is None
        # A client that leaves while its job is being preempted must not find it going on.
        if first or cut == "cancel":
            self.cut = cut
        # A task cancelled before its first step would never put its slot back.
        if first and self.begun and self.task is not None:
            self.task.cancel()
