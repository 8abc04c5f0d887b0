"""Who is let in: the live prediction and check, for all that one tier asks for in a step.

A step's requests come spread over it, while the line before them moves on. The live check is
asked for the one that would come last; if that is refused, for as many as still pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from marketplace.dispatch.admission import (
    FirstToken,
    SlotForecast,
    TierUnreachableError,
    TtftTargets,
    Work,
    check_admission,
    predict,
)
from marketplace.dispatch.demand import Demand
from marketplace.dispatch.outages import Outages
from marketplace.dispatch.queue import Tier
from marketplace.dispatch.speeds import EngineSpeed

_MODEL = "simulated"
_NOTE_S = 15.0
"""Accepted work is told to the live account of the tiers' demand in pieces of so long."""
_MOST_NOTES = 60
"""Of a step, which makes the pieces of a long one longer."""


@dataclass(frozen=True)
class Asked:
    """Requests of one tier in one step, and their tokens together."""

    tier: Tier
    n: int
    context_tokens: int
    generated_tokens: int

    def first(self, n: int) -> Work:
        """What the first of them take."""
        return Work(self.context_tokens * n // self.n, self.generated_tokens * n // self.n)

    @property
    def each(self) -> Work:
        """What one of them takes."""
        made = math.ceil(self.generated_tokens / self.n)
        return Work(max(1, math.ceil(self.context_tokens / self.n)), max(1, made))


@dataclass(frozen=True)
class Let:
    """How many were let in, and what the others were told."""

    n: int
    retry_after_s: float | None = None
    """None: nobody was refused, or the prompt alone takes too long."""


def speed_of(decode_rate: float, prefill_rate: float) -> EngineSpeed:
    """What the live code would have measured of engines that fast, taken for one slot."""
    speed = EngineSpeed()
    speed.prefill.add(1.0, 1.0 / prefill_rate)
    speed.token.add(1.0, 1.0 / decode_rate)
    return speed


class Admission:
    """One site's; times in seconds of the site's clock, which runs `speed` times wall time."""

    def __init__(self, targets: TtftTargets, step_s: float, speed: float = 1.0) -> None:
        self._targets, self._step_s, self._clock_speed = targets, step_s, speed
        self._demand, self._outages = Demand(), Outages()
        self._speed: EngineSpeed | None = None
        self._one_of = 1
        self._ready = False
        self._accepted: list[tuple[Tier, float, float]] = []
        """Work of this step: tier, seconds of the engines, when the step began; wall time."""

    def engines(self, decode_rate: float, prefill_rate: float, n: int, now_s: float) -> None:
        """From now on there are `n` engines, so fast together."""
        self._ready = decode_rate > 0.0
        if self._ready:
            self._speed, self._one_of = speed_of(decode_rate, prefill_rate), max(1, n)
        self._outages.note(_MODEL, self._ready, now_s)

    def let(self, asked: Asked, ahead: Work, now_s: float) -> Let:
        """How many get in behind the work `ahead`, and notes them as accepted."""
        self._tell(now_s)
        refusal = self._refusal(asked, (asked.n, asked.n), ahead, now_s)
        passing = asked.n
        if refusal is not None:
            passing, failing = 0, asked.n
            while failing - passing > 1:
                middle = (passing + failing) // 2
                come = asked.n if self._ready else middle
                tried = self._refusal(asked, (middle, come), ahead, now_s)
                if tried is None:
                    passing = middle
                else:
                    failing, refusal = middle, tried
        if self._ready and ahead != Work(0, 0):
            passing, refusal = self._in_time(asked, passing, refusal, ahead, now_s)
        self._accept(asked, passing, now_s)
        return Let(passing, None if refusal is None else refusal.retry_after_s)

    def _in_time(
        self,
        asked: Asked,
        passing: int,
        refusal: TierUnreachableError | None,
        ahead: Work,
        now_s: float,
    ) -> tuple[int, TierUnreachableError | None]:
        """Less those that come before the line has become short enough for the first."""
        early = self._refusal(asked, (0, 0), ahead, now_s)
        if early is None:
            return passing, refusal
        refused, waits = 0, asked.n
        while waits - refused > 1:
            middle = (refused + waits) // 2
            if self._refusal(asked, (0, middle), ahead, now_s) is None:
                waits = middle
            else:
                refused = middle
        return min(passing, asked.n - waits), refusal or early

    def _refusal(
        self, asked: Asked, numbers: tuple[int, int], ahead: Work, now_s: float
    ) -> TierUnreachableError | None:
        """What the live code tells a request. `numbers`: of the step's requests, how many were
        let in before it, and how many came."""
        if self._speed is None:
            return None
        n, come = numbers
        passed_s, outage_s = self._step_s * come / asked.n, 0.0
        if not self._ready:
            found = self._outages.wait_s(_MODEL, now_s + passed_s)
            if found is None:
                return None
            outage_s = found
        share_left = self._demand.share_left(_MODEL, asked.tier, 1, now_s / self._clock_speed)
        # One engine of several reads the prompt.
        own = Work(asked.each.n_prompt * self._one_of, asked.each.n_answer)
        slot = SlotForecast(outage_s, self._speed, 1)
        predicted = predict([slot], [ahead, asked.first(n)], own, share_left)
        if predicted is None:
            return None
        wait_s = predicted.wait_s - (passed_s if self._ready else 0.0)
        last = FirstToken(max(0.0, wait_s), predicted.prefill_s)
        try:
            target_s = self._targets.of(asked.tier) * self._clock_speed
            check_admission(asked.tier, last, 0.0, target_s)
        except TierUnreachableError as error:
            return error
        return None

    def _accept(self, asked: Asked, n: int, now_s: float) -> None:
        if not n or self._speed is None:
            return
        taken_s = SlotForecast(0.0, self._speed, 1).seconds(asked.first(n)) or 0.0
        self._accepted.append((asked.tier, taken_s / self._clock_speed, now_s / self._clock_speed))

    def _tell(self, now_s: float) -> None:
        """What was accepted in steps that are over came spread over them."""
        step_s = self._step_s / self._clock_speed
        pieces = max(1, min(round(step_s / _NOTE_S), _MOST_NOTES))
        later = [one for one in self._accepted if one[2] >= now_s / self._clock_speed]
        for tier, slot_s, begun_s in self._accepted[: len(self._accepted) - len(later)]:
            for piece in range(pieces):
                at_s = begun_s + step_s * (piece + 0.5) / pieces
                self._demand.note(_MODEL, tier, slot_s / pieces, at_s)
        self._accepted = later
