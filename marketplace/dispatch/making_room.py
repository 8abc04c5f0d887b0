"""Cuts flex answers off for priority work that waits, once that is worth it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from airan.core.clock import Clock
from marketplace.dispatch.common import CommonEngines
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.queue import Tier
from marketplace.dispatch.speeds import EngineSpeed, Speeds
from marketplace.dispatch.turns import Turn
from marketplace.dispatch.yielding import chosen_to_yield, patience_s, patient_until_s
from marketplace.jobs import Job

_LEAST_LOOK_S = 0.02
"""Between two looks at work that waits for a place to become free by itself."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A turn, as the rule sees it at one moment. Implements `yielding.Running`."""

    turn: Turn
    speed: EngineSpeed | None
    n_at_once: int
    now_s: float
    lengths: Lengths

    @property
    def tier(self) -> Tier:
        """The job's."""
        return self.turn.tier

    @property
    def is_held(self) -> bool:
        """See `Turn.is_held`."""
        return self.turn.is_held

    @property
    def is_cut(self) -> bool:
        """Its stream is being closed."""
        return self.turn.is_cut

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """See `Turn.cost_of_resuming`."""
        return self.turn.cost_of_resuming

    @property
    def resume_s(self) -> float:
        """Its prompt is worked on again, and its answer too: as a prompt, or anew."""
        starts_over, n_tokens = self.turn.cost_of_resuming
        n_made = len(self.turn.job.token_ids)
        if self.speed is None:
            return 0.0
        if not starts_over:
            return self.speed.prefill_s(n_tokens) or 0.0
        prefill_s = self.speed.prefill_s(n_tokens - n_made) or 0.0
        return prefill_s + n_made * self.speed.token_s(self.n_at_once)

    def frees_within(self, seconds: float) -> float:
        """The probability that its answer ends in that time; 0 where nothing was measured yet."""
        if self.speed is None:
            return 0.0
        if self.turn.last_token_s is None:
            prefill_s = self.speed.prefill_s(self.turn.n_new) or 0.0
            seconds -= max(0.0, prefill_s - (self.now_s - self.turn.began_s))
        token_s = self.speed.token_s(self.n_at_once)
        if seconds <= 0.0 or not token_s:
            return 0.0
        return self.lengths.ends_within(self.turn.job, seconds / token_s)


class MakingRoom:
    """Looks whenever something changes, and again when somebody's patience is over."""

    def __init__(
        self,
        lines: WaitingLines,
        common: CommonEngines,
        lengths: Lengths,
        speeds: Speeds,
        clock: Clock,
    ) -> None:
        self._lines = lines
        self._common = common
        self._turns = common.turns
        self._lengths = lengths
        self._speeds = speeds
        self._clock = clock
        self._next_look: dict[str, asyncio.TimerHandle] = {}

    def stop(self) -> None:
        """Nothing is looked at again."""
        for timer in self._next_look.values():
            timer.cancel()

    def make(
        self,
        model: str,
        promised_s: float,
        look: Callable[[], None],
        blocked: Collection[Job] = (),
    ) -> None:
        """Cuts off what is worth it for the model's priority work that waits, here or elsewhere.

        Args:
            model: the engines' one.
            promised_s: to its first token.
            look: is called when patience with the rest is over.
            blocked: jobs that wait for something else than room.
        """
        if (timer := self._next_look.pop(model, None)) is not None:
            timer.cancel()
        line, wanted = self._lines.of(model), self._common.wanted(model)
        if not line.waiting("priority") and not wanted:
            return
        others_wait = line.waiting("default") > 0 or self._common.default_waits(model)
        promised_s = patient_until_s(promised_s, others_wait=others_wait)
        now_s = self._clock.monotonic_s()
        running = self._running(model, now_s)
        here = (job for job in self._waiting(model) if job not in blocked)
        wanted += [self._first_token_s(job, running, now_s) for job in here]
        waiting = sorted(wanted, reverse=True)
        chosen = chosen_to_yield(running, waiting, promised_s)
        n_cut = sum(one.is_cut for one in running) + len(chosen)
        for one in chosen:
            one.turn.yields = True
            one.turn.end("preempt")
        if n_cut < len(waiting) and running:
            resume_s = min(one.resume_s for one in running)
            pause_s = max(_LEAST_LOOK_S, patience_s(resume_s, waiting[n_cut], promised_s))
            self._next_look[model] = asyncio.get_running_loop().call_later(pause_s, look)

    def _running(self, model: str, now_s: float) -> list[Seen]:
        return [
            Seen(
                turn,
                self._speeds.of(turn.engine.state),
                self._common.n_running(turn.engine),
                now_s,
                self._lengths,
            )
            for turn in self._turns
            if turn.engine.state.model == model and turn.engine.avoid_until_s <= now_s
        ]

    def _waiting(self, model: str) -> list[Job]:
        return [ticket.item for ticket in self._lines.of(model) if ticket.tier == "priority"]

    def _first_token_s(self, job: Job, running: list[Seen], now_s: float) -> float:
        """From its arrival, if it began now; its next one, after a pause, is as urgent."""
        n_tokens = self._lengths.prompt_tokens(job) + len(job.token_ids)
        speed = next((one.speed for one in running if one.speed is not None), None)
        prefill_s = (speed.prefill_s(n_tokens) if speed else None) or 0.0
        return now_s - job.started_s + prefill_s
