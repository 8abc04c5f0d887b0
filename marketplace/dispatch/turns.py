"""A job's stay on an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.yielding import may_yield
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
    yields: bool = False
    """It was cut off for priority work, and not because its engine went."""
    begun: bool = False
    n_new: int = 0
    """Tokens of its prompt that the slot did not hold when it began."""
    began_s: float = 0.0
    """Monotonic time at which the engine was asked."""
    last_token_s: float | None = None
    """Monotonic time of its last token; None: none came yet."""
    protected: bool = False
    """It runs because it had been passed over too often: higher tiers do not cut it off."""
    reason: FinishReason | None = None
    """Set as soon as the answer is complete; a cut that comes later changes nothing."""

    @property
    def tier(self) -> Tier:
        """The job's."""
        return self.job.request.service_tier

    @property
    def is_held(self) -> bool:
        """Not cut off for priority work. On an external engine it has to be paid for."""
        return self.protected or self.engine.external is not None

    @property
    def is_cut(self) -> bool:
        """Its stream is being closed."""
        return self.cut is not None

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """An answer with a schema starts over; of others, all tokens are worked on as a prompt."""
        n_tokens = len(self.job.prompt_ids or ()) + len(self.job.token_ids)
        return self.job.request.response_schema is not None, n_tokens

    def end(self, cut: Cut) -> None:
        """Closes the stream to the engine; what was received stays with the job."""
        first = self.cut is None
        # A client that leaves while its job is being preempted must not find it going on.
        if first or cut == "cancel":
            self.cut = cut
        # A task cancelled before its first step would never put its slot back.
        if first and self.begun and self.task is not None:
            self.task.cancel()


class Turns:
    """All turns that go on, by job and by engine."""

    def __init__(self) -> None:
        self._of_job: dict[Job, Turn] = {}
        self._on: dict[PooledEngine, dict[Job, Turn]] = {}

    def __len__(self) -> int:
        return len(self._of_job)

    def __iter__(self) -> Iterator[Turn]:
        return iter(list(self._of_job.values()))

    def begin(self, turn: Turn) -> None:
        """The job has a slot from now on."""
        self._of_job[turn.job] = turn
        self._on.setdefault(turn.engine, {})[turn.job] = turn

    def end(self, job: Job) -> None:
        """The job's slot is free again."""
        turn = self._of_job.pop(job)
        del self._on[turn.engine][job]

    def of(self, job: Job) -> Turn | None:
        """The job's turn, if it has one."""
        return self._of_job.get(job)

    def on(self, engine: PooledEngine) -> list[Turn]:
        """The turns on that engine."""
        return list(self._on.get(engine, {}).values())

    def count(self, engine: PooledEngine) -> int:
        """How many there are on that engine."""
        return len(self._on.get(engine, ()))


def can_yield(turn: Turn) -> bool:
    """Whether the turn makes room for priority work, as flex work of our own engines does."""
    return may_yield(turn)


def rank(turn: Turn) -> tuple[int, int]:
    """First those that are cut off last."""
    return TIERS.index(turn.job.request.service_tier), turn.job.sequence
