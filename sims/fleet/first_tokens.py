"""When requests have their first tokens at a site, counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from marketplace.dispatch.admission import Work
from marketplace.dispatch.queue import TIERS, Tier
from sims.fleet.admission import Engines
from sims.fleet.cohort import Cohort
from sims.fleet.engines import EngineTable
from sims.fleet.histogram import Histogram
from sims.fleet.routing import Router

_PIECES = 8
"""Groups in which the requests of a tenant's step are put on several engines."""


class FirstTokens:
    """What follows their wait in line: their prompt, and the first token."""

    def __init__(self, table: EngineTable, step_s: float, tiers: Collection[str]) -> None:
        self._table, self._step_s = table, step_s
        self._router = Router(table)
        self._engines = Engines()
        self._was_full = False
        self._came: dict[Tier, int] = {}
        self._usual_s: dict[Tier, float] = {}
        self.waits = {tier: Histogram() for tier in TIERS if tier in tiers}

    def begin_step(self, was_full: bool) -> None:
        """`was_full`: work waited at its beginning."""
        self._was_full = was_full
        self._router.begin_step()
        self._came.clear()

    def came(self, tier: Tier, n: int) -> None:
        """So many were let in in this step."""
        self._came[tier] = self._came.get(tier, 0) + n

    def engines(self, engines: Engines, sms: Sequence[int]) -> None:
        """From now on these are there, on so many SMs each."""
        self._engines = engines
        if engines.n > 1:
            self._router.engines(sms)

    def note(self, cohort: Cohort, wait_s: float, n: float) -> None:
        """So many of them begin after such a wait."""
        for some, on_engine_s in self._on_engines(cohort, n):
            seconds = wait_s + on_engine_s
            self._usual_s[cohort.tier] = seconds
            self.waits[cohort.tier].add(seconds, some)

    def _on_engines(self, cohort: Cohort, n: float) -> list[tuple[float, float]]:
        """Requests and their seconds of prompt and first token, by the engines they begin on."""
        engines = self._engines
        prompt = cohort.context_tokens / cohort.n
        token_s = engines.places / engines.decode_rate
        if engines.n <= 1:
            return [(n, prompt / engines.prefill_rate + token_s)]
        mean_s = engines.n * prompt / engines.prefill_rate + token_s
        if self._was_full:
            return [(n, mean_s)]
        made = cohort.generated_tokens / cohort.n
        work = Work(max(1, round(prompt)), max(1, round(made)))
        lasts_s = mean_s + made * token_s
        found = []
        for _ in range(_PIECES):
            chosen = self._router.choose(work, n / _PIECES * lasts_s / self._step_s)
            seconds = mean_s
            if chosen is not None:
                sms = self._router.sm_count(chosen)
                token_s = self._table.concurrent(sms) / self._table.decode_rate(sms)
                seconds = prompt / self._table.prefill_rate(sms) + token_s
            found.append((n / _PIECES, seconds))
        return found

    def stall(self, seconds: float) -> None:
        """No engine for a part of a step: those that come meanwhile wait for it to end."""
        if seconds >= self._step_s * (1.0 - 1e-9):
            return
        for tier, n in self._came.items():
            met = n * seconds / self._step_s
            for quarter in range(4):
                waited_s = seconds * (quarter + 0.5) / 4.0
                self.waits[tier].move(self._usual_s.get(tier, 0.0), waited_s, met / 4.0)
