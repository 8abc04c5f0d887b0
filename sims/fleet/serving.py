"""Tenants' requests on a site's engines: the live queue, served at the measured rate.

Requests of one tenant that arrive in one step wait and are served together, as one ticket of the
live queue. Their work flows: an engine makes tokens at the rate of a full batch. What that leaves
out is the chance of the moment within a step: a burst of seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from airan.core.errors import CapacityError
from marketplace.dispatch.queue import FairQueue, Ticket, Tier
from sims.fleet.engines import EngineTable
from sims.fleet.histogram import Histogram
from sims.fleet.traffic import Stream

_MOST_WAITING = 240
"""Tickets of a tenant; one is what it asks for in a step."""


@dataclass(eq=False)
class Cohort:
    """Requests of one tenant that arrived in one step."""

    tier: Tier
    n: int
    context_tokens: int
    generated_tokens: int
    begun_s: float
    """When their step began."""
    left: float = 1.0
    """Part of their work that is still to do."""


@dataclass
class TierCount:
    """What became of the requests of one tier."""

    arrived: int = 0
    refused: int = 0
    completed: int = 0
    generated_tokens: float = 0.0
    context_tokens: float = 0.0


class Serving:
    """A site's queue and engines. Moves on by `advance` while nothing else changes."""

    def __init__(self, table: EngineTable, streams: Sequence[Stream], step_s: float) -> None:
        self._table, self._streams, self._step_s = table, streams, step_s
        self._queue: FairQueue[Cohort] = FairQueue(max_per_tenant=_MOST_WAITING)
        self._current: Ticket[Cohort] | None = None
        self._sequence = 0
        self._begun_s = 0.0
        self._busy_old_s = 0.0
        self._new_n: dict[Tier, int] = {}
        self._usual_s: dict[Tier, float] = {}
        self._was_full = False
        self._decode = self._prefill = 0.0
        self._places = 0
        self._again_tokens = 0.0
        """Of paused requests, to be read anew."""
        self._usual_tokens = 0.0
        """That the request last served had, in the mean over its time."""
        self.worked_s = 0.0
        """Engine time, as if at full batch."""
        self.preempted = 0.0
        self.tiers: dict[str, TierCount] = {}
        self.waits: dict[str, Histogram] = {}
        for stream in streams:
            self.tiers.setdefault(stream.tier, TierCount())
            self.waits.setdefault(stream.tier, Histogram())

    def arrive(self, step: int, now_s: float) -> None:
        """What is asked for in this step comes into the queue."""
        self._was_full = self.waiting > 0
        if self._current is not None:
            # What came since goes by its tier; what was begun is first in its own.
            self._queue.put_back(self._current)
            self._current = None
        self._begun_s, self._busy_old_s = now_s, 0.0
        self._new_n.clear()
        for stream in self._streams:
            n = int(stream.requests[step])
            if not n:
                continue
            context, made = int(stream.context_tokens[step]), int(stream.generated_tokens[step])
            tier: Tier = stream.tier  # type: ignore[assignment]
            cohort = Cohort(tier, n, context, made, now_s)
            self._sequence += 1
            count = self.tiers[tier]
            count.arrived += n
            try:
                self._queue.push(
                    Ticket(cohort, tier, stream.tenant, context + made, self._sequence)
                )
            except CapacityError:
                count.refused += n
            else:
                self._new_n[tier] = self._new_n.get(tier, 0) + n

    def engines(self, sms: Sequence[int]) -> None:
        """From now on there are engines on so many SMs each."""
        self._decode = sum(map(self._table.decode_rate, sms))
        self._prefill = sum(map(self._table.prefill_rate, sms))
        self._places = sum(map(self._table.concurrent, sms))

    def pause(self, sms: int, *, keeps_cache: bool) -> None:
        """An engine on so many SMs loses its lease: its requests go on later from their last
        token. Without its cache, what they had is read anew."""
        counts = self.tiers.values()
        still_open = sum(one.arrived - one.refused - one.completed for one in counts)
        running = min(self._table.concurrent(sms), still_open)
        self.preempted += running
        if not keeps_cache:
            self._again_tokens += running * self._usual_tokens

    def advance(self, now_s: float, seconds: float) -> float:
        """Serves for so long from `now_s` on; returns for how much of it the engines worked."""
        if self._decode <= 0.0:
            self._stall(seconds)
            return 0.0
        left_s = seconds - self._read_again(seconds)
        while left_s > 1e-9:
            if self._current is None:
                self._current = self._queue.pop()
                if self._current is None:
                    break
            left_s -= self._serve(self._current.item, now_s + seconds - left_s, left_s)
        self.worked_s += seconds - left_s
        return seconds - left_s

    def _read_again(self, most_s: float) -> float:
        """Reads what paused requests had; it is work, but not sold twice."""
        took_s = min(most_s, self._again_tokens / self._prefill)
        self._again_tokens = max(0.0, self._again_tokens - took_s * self._prefill)
        return took_s

    def _serve(self, cohort: Cohort, now_s: float, most_s: float) -> float:
        whole_s = self._seconds(cohort)
        self._usual_tokens = (cohort.context_tokens + cohort.generated_tokens / 2.0) / cohort.n
        took_s = min(most_s, cohort.left * whole_s)
        part = took_s / whole_s
        self._note_wait(cohort, now_s, min(part, cohort.left))
        cohort.left -= part
        count = self.tiers[cohort.tier]
        count.generated_tokens += part * cohort.generated_tokens
        count.context_tokens += part * cohort.context_tokens
        if cohort.begun_s < self._begun_s:
            self._busy_old_s += took_s
        if cohort.left <= 1e-12:
            count.completed += cohort.n
            self._current = None
        return took_s

    def _seconds(self, cohort: Cohort) -> float:
        return cohort.generated_tokens / self._decode + cohort.context_tokens / self._prefill

    def _note_wait(self, cohort: Cohort, now_s: float, part: float) -> None:
        """Time to the first token: what waits before them, a free place, their prompt."""
        if cohort.begun_s < self._begun_s:
            wait_s = max(0.0, now_s - cohort.begun_s - self._step_s / 2.0)
        else:
            wait_s = self._busy_old_s if self._was_full else 0.0
        place_s = self._seconds(cohort) / cohort.n if self._was_full else 0.0
        prompt_s = cohort.context_tokens / cohort.n / self._prefill
        token_s = self._places / self._decode
        seconds = wait_s + place_s + prompt_s + token_s
        self._usual_s[cohort.tier] = seconds
        self.waits[cohort.tier].add(seconds, cohort.n * part)

    def _stall(self, seconds: float) -> None:
        """No engine for a part of a step: those that come meanwhile wait for it to end."""
        if seconds >= self._step_s * (1.0 - 1e-9):
            return
        for tier, n in self._new_n.items():
            met = n * seconds / self._step_s
            for quarter in range(4):
                waited_s = seconds * (quarter + 0.5) / 4.0
                self.waits[tier].move(self._usual_s.get(tier, 0.0), waited_s, met / 4.0)

    @property
    def waiting(self) -> int:
        """Tickets that wait or are being served."""
        return (self._current is not None) + len(self._queue)

    @property
    def decode_rate(self) -> float:
        """Tokens a second of all engines."""
        return self._decode

    def totals(self) -> dict[str, dict[str, float]]:
        """By tier."""
        return {
            tier: {
                "arrived": count.arrived,
                "refused": count.refused,
                "completed": count.completed,
                "generated_tokens": math.floor(count.generated_tokens + 0.5),
                "context_tokens": math.floor(count.context_tokens + 0.5),
            }
            for tier, count in self.tiers.items()
        }
