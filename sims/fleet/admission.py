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
)
from marketplace.dispatch.outages import Outages
from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.speeds import EngineSpeed
from marketplace.dispatch.waits import Asker, Before, Waits, margin_s
from sims.fleet.cohort import Predicted

_MODEL = "simulated"
_NOTE_S = 15.0
"""Accepted work is told to the live account of the tiers' demand in pieces of so long."""
_MOST_NOTES = 60
"""Of a step, which makes the pieces of a long one longer."""
_MOST_CAME = 5
"""First tokens of one moment that the live correction is told of."""
_ASKERS = {tier: Asker(_MODEL, tier, "") for tier in TIERS}
"""A tier's tenants ask alike: none waits longer for its share than the others."""


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
    predicted: Predicted | None = None
    """On which they were let in."""


@dataclass(frozen=True)
class Engines:
    """A site's, together."""

    decode_rate: float = 0.0
    prefill_rate: float = 0.0
    n: int = 1
    places: int = 1


def speed_of(decode_rate: float, prefill_rate: float) -> EngineSpeed:
    """What the live code would have measured of engines that fast, taken for one slot."""
    speed = EngineSpeed()
    speed.prefill.add(1.0, 1.0 / prefill_rate)
    speed.token.add(1.0, 1.0 / decode_rate)
    return speed


class Admission:
    """One site's. It is told seconds of the site's clock, which runs `speed` times wall time, and
    reckons in wall time, as the live code does."""

    def __init__(self, targets: TtftTargets, step_s: float, speed: float = 1.0) -> None:
        self._targets, self._step_s, self._clock_speed = targets, step_s / speed, speed
        self._waits, self._outages = Waits({}), Outages()
        self._engines = Engines()
        self._speed: EngineSpeed | None = None
        self._ready = False
        self._accepted: list[tuple[Tier, float, float, int]] = []
        """Work of this step: tier, seconds of the engines, when the step began, requests."""

    def engines(self, engines: Engines, now_s: float, *, waited_for: bool = False) -> None:
        """From now on these are there. `waited_for`: there is work."""
        wall_s = now_s / self._clock_speed
        self._ready = engines.decode_rate > 0.0
        if self._ready:
            rates = engines.decode_rate, engines.prefill_rate
            self._speed = speed_of(*(rate * self._clock_speed for rate in rates))
            self._engines = engines
        lasted_s = self._outages.note(_MODEL, self._ready, wall_s)
        if waited_for and lasted_s:
            self._waits.progress.took(_MODEL, lasted_s * self._engines.places, wall_s)

    def worked(self, seconds: float, now_s: float, *, done: bool) -> None:
        """The engines worked for so long. `done`: on what was asked for, and not on what has to be
        read again."""
        wall_s = now_s / self._clock_speed
        place_s = seconds / self._clock_speed * self._engines.places
        self._waits.progress.took(_MODEL, place_s, wall_s)
        if done:
            # A request takes what is predicted at the engines' present speed: lengths are known.
            self._waits.progress.did(_MODEL, place_s, wall_s)

    def turned_away(self, tier: Tier, predicted: Predicted, n: int) -> None:
        """So many of the last step's found too many of their tenant's waiting."""
        for number, (its, taken_s, begun_s, n_jobs) in enumerate(self._accepted):
            if its == tier and n < n_jobs:
                left_s = max(0.0, taken_s - predicted.each_s * n)
                self._accepted[number] = its, left_s, begun_s, n_jobs - n

    def came(self, tier: Tier, predicted: FirstToken, came_s: float, n: float) -> None:
        """So many had waited so long in line, and were predicted to."""
        if predicted.wait_s:
            for _ in range(min(_MOST_CAME, math.ceil(n))):
                self._waits.came(_ASKERS[tier], predicted, came_s / self._clock_speed)

    def let(self, asked: Asked, ahead: Work, now_s: float) -> Let:
        """How many get in behind the work `ahead`, and notes them as accepted."""
        now_s /= self._clock_speed
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
        predicted = self._accept(asked, passing, ahead, now_s) if passing else None
        told_s = None if refusal is None else refusal.retry_after_s
        return Let(passing, None if told_s is None else told_s * self._clock_speed, predicted)

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
        found = self._first_token(asked, numbers, ahead, now_s)
        if found is None:
            return None
        target_s = self._targets.of(asked.tier)
        try:
            check_admission(asked.tier, found, margin_s(found, target_s), target_s)
        except TierUnreachableError as error:
            return error
        return None

    def _first_token(
        self, asked: Asked, numbers: tuple[int, int], ahead: Work, now_s: float
    ) -> FirstToken | None:
        """What the live code predicts for a request, at its arrival. None: nothing is known."""
        if self._speed is None:
            return None
        n, come = numbers
        passed_s, outage_s = self._step_s * come / asked.n, 0.0
        if not self._ready:
            found_s = self._outages.wait_s(_MODEL, now_s + passed_s)
            if found_s is None:
                return None
            # The line has not moved on.
            passed_s, outage_s = 0.0, found_s
        # One engine of several reads the prompt.
        own = Work(asked.each.n_prompt * self._engines.n, asked.each.n_answer)
        slots = [SlotForecast(outage_s, self._speed, 1)]
        before = Before([ahead, asked.first(n)], [])
        found = self._waits.first_token(_ASKERS[asked.tier], own, before, slots, now_s)
        if found is None or not found.wait_s:
            return found
        wait_s = max(0.0, found.wait_s - passed_s)
        return FirstToken(wait_s, found.prefill_s, found.spread_s * wait_s / found.wait_s)

    def _accept(self, asked: Asked, n: int, ahead: Work, now_s: float) -> Predicted | None:
        first = self._first_token(asked, (0, 0), ahead, now_s)
        last = self._first_token(asked, (n, asked.n), ahead, now_s)
        if self._speed is None:
            return None
        taken_s = SlotForecast(0.0, self._speed, 1).seconds(asked.first(n)) or 0.0
        self._accepted.append((asked.tier, taken_s, now_s, n))
        return None if first is None or last is None else Predicted(first, last, taken_s / n)

    def _tell(self, now_s: float) -> None:
        """What was accepted in steps that are over came spread over them."""
        pieces = max(1, min(round(self._step_s / _NOTE_S), _MOST_NOTES))
        later = [one for one in self._accepted if one[2] >= now_s]
        for tier, slot_s, begun_s, n in self._accepted[: len(self._accepted) - len(later)]:
            for piece in range(pieces):
                at_s = begun_s + self._step_s * (piece + 0.5) / pieces
                self._waits.accepted(_ASKERS[tier], slot_s / pieces, at_s, n / pieces)
        self._accepted = later
