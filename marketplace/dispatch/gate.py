"""The gate: lets a job in if its tier can be kept, or a peer can take it."""

from __future__ import annotations

from airan.core.clock import Clock
from marketplace.dispatch.admission import (
    FirstToken,
    TierUnreachableError,
    TtftTargets,
    check_admission,
)
from marketplace.dispatch.foresight import Foresight, asker_of
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.overflow import Overflow
from marketplace.dispatch.waits import SURE, Asker
from marketplace.jobs import Job

_MOST_MARGIN = 0.6
"""Of a tier's time: where next to nothing is certain, the rest of it is still used."""


class Gate:
    """Asks the foresight when a job would have its first token, and its tier whether that is soon
    enough."""

    def __init__(
        self,
        foresight: Foresight,
        lines: WaitingLines,
        overflow: Overflow,
        clock: Clock,
        targets: TtftTargets,
    ) -> None:
        self._foresight = foresight
        self._lines = lines
        self._overflow = overflow
        self._clock = clock
        self._targets = targets

    async def admit(self, job: Job) -> None:
        """Refuses a job whose tier cannot be kept, by what was measured until now, and that no
        peer may take; one that gets in is told from then on when it will begin.

        Raises:
            TierUnreachableError: its first token could not come in its tier's time.
        """
        now_s, engines = self._clock.monotonic_s(), self._overflow.engines
        self._foresight.asked(job, engines, now_s)
        found = self._foresight.first_token(job, self._lines, engines, now_s)
        if found is None:
            return
        spent_s = now_s - job.started_s
        try:
            self.check(asker_of(job), found, spent_s)
        except TierUnreachableError:
            if await self._overflow.find(job, now_s):
                return
            raise
        job.predicted_ttft_s = spent_s + found.total_s
        job.predicted_wait_s, job.predicted_spread_s = found.wait_s, found.spread_s

    def admit_cold(self, job: Job) -> None:
        """The same while the engine is cold: the prompt cannot be counted before it is back.

        Raises:
            TierUnreachableError: it will not be back in the tier's time.
        """
        now_s = self._clock.monotonic_s()
        wait_s = self._foresight.absence_s(job.model, self._overflow.engines, now_s)
        if wait_s is not None:
            tier = job.request.service_tier
            spent_s = now_s - job.started_s
            check_admission(tier, FirstToken(wait_s, 0.0), spent_s, self._targets.of(tier))

    def check(self, asker: Asker, found: FirstToken, spent_s: float) -> None:
        """Lets a request in if its tier can be kept, though the wait be as long as it well may.

        `spent_s`: seconds since its arrival.

        Raises:
            TierUnreachableError: it cannot.
        """
        target_s = self._targets.of(asker.tier)
        margin_s = min(SURE * found.spread_s, _MOST_MARGIN * target_s)
        check_admission(asker.tier, found, spent_s + margin_s, target_s)
