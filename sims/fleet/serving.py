"""Tenants' requests on a site's engines: the live queue, served at the measured rate.

Requests of one tenant that arrive in one step wait and are served together, as one ticket of the
live queue. Their work flows: an engine makes tokens at the rate of a full batch. What that leaves
out is the chance of the moment within a step: a burst of seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from airan.core.errors import CapacityError
from marketplace.billing.spot import SpotPrice
from marketplace.dispatch.admission import Work
from marketplace.dispatch.queue import TIERS, FairQueue, Ticket, Tier
from sims.fleet import preemption
from sims.fleet.admission import Asked
from sims.fleet.cohort import Cohort, Refused, TierCount
from sims.fleet.desk import Desk
from sims.fleet.engines import EngineTable
from sims.fleet.histogram import Histogram
from sims.fleet.pricing import price_at
from sims.fleet.routing import Router
from sims.fleet.traffic import Stream

_MOST_WAITING = 240
"""Tickets of a tenant; one is what it asks for in a step."""
_PIECES = 8
"""Groups in which the requests of a tenant's step are put on several engines."""


class Serving:
    """A site's queue and engines. Moves on by `advance` while nothing else changes."""

    def __init__(
        self, table: EngineTable, streams: Sequence[Stream], step_s: float, desk: Desk
    ) -> None:
        self._table, self._streams, self._step_s, self._desk = table, streams, step_s, desk
        self._queue: FairQueue[Cohort] = FairQueue(max_per_tenant=_MOST_WAITING)
        self._current: Ticket[Cohort] | None = None
        self._sequence = 0
        self._begun_s = 0.0
        self._busy_old_s = 0.0
        self._new_n: dict[Tier, int] = {}
        self._usual_s: dict[Tier, float] = {}
        self._was_full = False
        self._gives_way = False
        """Flex work makes room for each request of priority in this step."""
        self._decode = self._prefill = 0.0
        self._places = 0
        self._n_engines = 0
        self._router = Router(table)
        self._spot = SpotPrice(lambda: 0.0 if self._was_full else 1.0 - self._busy_share)
        self._busy_share = 0.0
        self._worked_before_s = 0.0
        self._again_tokens = 0.0
        """Of paused requests, to be read anew."""
        self._usual_tokens = 0.0
        """That the request last served had, in the mean over its time."""
        self.worked_s = 0.0
        """Engine time, as if at full batch."""
        self.preempted = 0.0
        """As their engine had to go."""
        self.refused: list[Refused] = []
        """Those that may be done elsewhere."""
        self.tiers: dict[str, TierCount] = {}
        self.waits: dict[str, Histogram] = {}
        self._ahead: dict[Tier, list[float]] = {tier: [0.0, 0.0] for tier in TIERS}
        """Tokens of prompts and answers that wait or are being worked on, by tier."""
        for stream in streams:
            self.tiers.setdefault(stream.tier, TierCount())
            self.waits.setdefault(stream.tier, Histogram())

    def arrive(self, step: int, now_s: float) -> None:
        """What is asked for in this step comes into the queue, as far as it is let in."""
        self._was_full = self.waiting > 0
        self._busy_share = min(1.0, (self.worked_s - self._worked_before_s) / self._step_s)
        self._worked_before_s = self.worked_s
        self._router.begin_step()
        at_work, self._gives_way = self._current, False
        is_full = len(self._queue) > 0
        if self._current is not None:
            # What came since goes by its tier; what was begun is first in its own.
            self._queue.put_back(self._current)
            self._current = None
        self._begun_s, self._busy_old_s = now_s, 0.0
        self._new_n.clear()
        level = self._spot.level_permille()
        for tier in TIERS:
            streams = [one for one in self._streams if one.tier == tier and one.requests[step]]
            if streams:
                self._come(tier, streams, step, level)
        if at_work is not None and self._new_n.get("priority"):
            is_full = is_full or at_work.item.left * at_work.item.n >= self._places
            if is_full and self._decode > 0.0:
                self._make_room(at_work.item, self._new_n["priority"])

    def _come(self, tier: Tier, streams: Sequence[Stream], step: int, level: int) -> None:
        """Lets in what the live check does, of each tenant the same part."""
        asked = Asked(
            tier,
            sum(int(one.requests[step]) for one in streams),
            sum(int(one.context_tokens[step]) for one in streams),
            sum(int(one.generated_tokens[step]) for one in streams),
        )
        count, let = self.tiers[tier], asked.n
        count.arrived += asked.n
        if self._desk.admission is not None:
            found = self._desk.admission.let(asked, self._work_before(tier), self._begun_s)
            let = found.n
            count.refused_late += asked.n - let
            count.retry_after_s += (asked.n - let) * (found.retry_after_s or 0.0)
        price = price_at(self._desk.book, tier, level)
        passed = 0
        for one in streams:
            n = int(one.requests[step])
            # Of the tier's requests in a row, the part that is let in, rounded in the sum.
            mine = (passed + n) * let // asked.n - passed * let // asked.n
            passed += n
            context, made = int(one.context_tokens[step]), int(one.generated_tokens[step])
            kept = context * mine // n, made * mine // n
            if mine < n and tier in self._desk.leaving:
                rest = context - kept[0], made - kept[1]
                micro_usd = price.amount_micro_usd(*rest)
                self.refused.append(Refused(step, tier, n - mine, *rest, micro_usd))
            if mine:
                self._join(one.tenant, Cohort(tier, mine, *kept, self._begun_s, price))

    def _work_before(self, tier: Tier) -> Work:
        """What was there before this step, of that tier and those above."""
        higher = TIERS[: TIERS.index(tier) + 1]
        context = sum(self._ahead[one][0] for one in higher)
        return Work(round(context), round(sum(self._ahead[one][1] for one in higher)))

    def _join(self, tenant: str, cohort: Cohort) -> None:
        tier, tokens = cohort.tier, cohort.context_tokens + cohort.generated_tokens
        self._sequence += 1
        try:
            self._queue.push(Ticket(cohort, tier, tenant, max(1, tokens), self._sequence))
        except CapacityError:
            self.tiers[tier].refused_full += cohort.n
            return
        self._new_n[tier] = self._new_n.get(tier, 0) + cohort.n
        self._ahead[tier][0] += cohort.context_tokens
        self._ahead[tier][1] += cohort.generated_tokens

    def _make_room(self, at_work: Cohort, n_priority: int) -> None:
        """While all places are taken, each request of priority has one of flex cut off."""
        context = at_work.context_tokens / at_work.n
        made = at_work.generated_tokens / at_work.n
        turns = preemption.running(at_work.tier, context, made, held=at_work.held)
        chosen = preemption.yields(turns)
        if chosen is not None:
            self.tiers[at_work.tier].preempted += n_priority
            self._again_tokens += n_priority * chosen.n_tokens
            self._gives_way = True

    def engines(self, sms: Sequence[int], now_s: float) -> None:
        """From `now_s` on there are engines on so many SMs each."""
        self._decode = sum(map(self._table.decode_rate, sms))
        self._prefill = sum(map(self._table.prefill_rate, sms))
        self._places = sum(map(self._table.concurrent, sms))
        self._n_engines = len(sms)
        if self._n_engines > 1:
            self._router.engines(sms)
        if self._desk.admission is not None:
            self._desk.admission.engines(self._decode, self._prefill, self._n_engines, now_s)

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
                self._begin(self._current.item)
            left_s -= self._serve(self._current.item, now_s + seconds - left_s, left_s)
        self.worked_s += seconds - left_s
        return seconds - left_s

    def _begin(self, cohort: Cohort) -> None:
        """Its turn has come although priority work waits: it would never get on otherwise."""
        cohort.held = self._queue.waiting("priority") > 0

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
        ahead = self._ahead[cohort.tier]
        ahead[0] = max(0.0, ahead[0] - part * cohort.context_tokens)
        ahead[1] = max(0.0, ahead[1] - part * cohort.generated_tokens)
        if cohort.begun_s < self._begun_s:
            self._busy_old_s += took_s
        if cohort.left <= 1e-12:
            count.completed += cohort.n
            tokens = cohort.context_tokens, cohort.generated_tokens
            count.micro_usd += cohort.price.amount_micro_usd(*tokens)
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
        # Priority work does not wait for a place that flex work has.
        full = self._was_full and not (self._gives_way and cohort.tier == "priority")
        place_s = self._seconds(cohort) / cohort.n if full else 0.0
        for n, on_engine_s in self._on_engines(cohort, cohort.n * part):
            seconds = wait_s + place_s + on_engine_s
            self._usual_s[cohort.tier] = seconds
            self.waits[cohort.tier].add(seconds, n)

    def _on_engines(self, cohort: Cohort, n: float) -> list[tuple[float, float]]:
        """Requests and their seconds of prompt and first token, by the engines they begin on."""
        prompt = cohort.context_tokens / cohort.n
        if self._n_engines <= 1:
            return [(n, prompt / self._prefill + self._places / self._decode)]
        mean_s = self._n_engines * prompt / self._prefill + self._places / self._decode
        if self._was_full:
            return [(n, mean_s)]
        made = cohort.generated_tokens / cohort.n
        work = Work(max(1, round(prompt)), max(1, round(made)))
        lasts_s = mean_s + made * self._places / self._decode
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
    def rates(self) -> tuple[float, float]:
        """Tokens of answers, and of prompts, a second of all engines."""
        return self._decode, self._prefill

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
                "refused_late": count.refused_late,
                "refused_full": count.refused_full,
                "retry_after_s": count.retry_after_s,
                "preempted": count.preempted,
                "moved": 0,
                "completed": count.completed,
                "generated_tokens": math.floor(count.generated_tokens + 0.5),
                "context_tokens": math.floor(count.context_tokens + 0.5),
                "micro_usd": count.micro_usd,
            }
            for tier, count in self.tiers.items()
        }
