"""Tenants' requests on a site's engines: the live queue, served at the measured rate.

Requests of one tenant that arrive in one step wait and are served together, as one ticket of the
live queue. Their work flows: an engine makes tokens at the rate of a full batch. What that leaves
out is the chance of the moment within a step: a burst of seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from marketplace.billing.spot import SpotPrice
from marketplace.dispatch.admission import Work
from marketplace.dispatch.queue import TIERS, FairQueue, Ticket, Tier
from marketplace.dispatch.yielding import patient_until_s
from sims.fleet import preemption
from sims.fleet.admission import Engines
from sims.fleet.cohort import Cohort
from sims.fleet.desk import Desk
from sims.fleet.door import Door
from sims.fleet.engines import EngineTable
from sims.fleet.first_tokens import FirstTokens
from sims.fleet.traffic import Stream

_ANY = 1 << 60
"""Tickets in the queue: the bound is on requests, which the door keeps."""
_PIECES = 4
"""In which the waits of requests are counted that are served for long."""


class Serving:
    """A site's queue and engines. Moves on by `advance` while nothing else changes."""

    def __init__(
        self, table: EngineTable, streams: Sequence[Stream], step_s: float, desk: Desk
    ) -> None:
        self._table, self._step_s, self._desk = table, step_s, desk
        self._door = Door(streams, step_s, desk)
        self._first_tokens = FirstTokens(table, step_s, {one.tier for one in streams})
        self._queue: FairQueue[Cohort] = FairQueue(max_per_tenant=_ANY)
        self._current: Ticket[Cohort] | None = None
        self._newest: list[Ticket[Cohort]] = []
        """What came in this step."""
        self._sequence = 0
        self._begun_s = 0.0
        self._busy_old_s = 0.0
        self._was_full = False
        self._room: preemption.Room | None = None
        """How priority gets its places in this step; None: some are free, or nothing yields."""
        self._engines = Engines()
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
        self.tiers = self._door.tiers
        self.refused = self._door.refused
        self.waits = self._first_tokens.waits
        self._ahead: dict[Tier, list[float]] = {tier: [0.0, 0.0] for tier in TIERS}
        """Tokens of prompts and answers that wait or are being worked on, by tier."""
        self._here: dict[str, float] = {}
        """Requests that wait or are being worked on, by tenant."""

    def arrive(self, step: int, now_s: float) -> None:
        """What is asked for in this step comes into the queue, as far as it is let in."""
        self._was_full = self.waiting > 0
        self._busy_share = min(1.0, (self.worked_s - self._worked_before_s) / self._step_s)
        self._worked_before_s = self.worked_s
        at_work, self._room = self._current, None
        if self._current is not None:
            # What came since goes by its tier; what was begun is first in its own.
            self._queue.put_back(self._current)
            self._current = None
        self._turn_away(at_work, step)
        if at_work is not None and at_work.sequence not in self._queue:
            at_work = None
        is_full = len(self._queue) > (at_work is not None)
        # What comes in this step too may have its place at once; what was there before waits.
        of_default = at_work is not None and at_work.tier == "default"
        others_wait = self._queue.waiting("default") > of_default
        self._begun_s, self._busy_old_s = now_s, 0.0
        self._first_tokens.begin_step(self._was_full)
        level = self._spot.level_permille()
        self._newest = []
        for tier in TIERS:
            before = self._work_before(tier)
            for cohort in self._door.let_in(tier, step, before, now_s, level):
                self._join(cohort)
        came = [one.item for one in self._newest if one.tier == "priority"]
        if not came or at_work is None or self._engines.decode_rate <= 0.0:
            return
        if is_full or at_work.item.n_left >= self._engines.places:
            self._make_room(at_work.item, came, others_wait=others_wait)

    def _work_before(self, tier: Tier) -> Work:
        """What was there before this step, of that tier and those above, and what has to be read
        again."""
        higher = TIERS[: TIERS.index(tier) + 1]
        context = sum(self._ahead[one][0] for one in higher) + self._again_tokens
        return Work(round(context), round(sum(self._ahead[one][1] for one in higher)))

    def _join(self, cohort: Cohort) -> None:
        tier, tokens = cohort.tier, cohort.context_tokens + cohort.generated_tokens
        self._sequence += 1
        ticket = Ticket(cohort, tier, cohort.tenant, max(1, tokens), self._sequence)
        self._queue.push(ticket)
        self._newest.append(ticket)
        self._first_tokens.came(tier, cohort.n)
        self._note(cohort, 1.0)

    def _note(self, cohort: Cohort, part: float) -> None:
        """So much of it is here, or if that is negative, is here no more."""
        ahead = self._ahead[cohort.tier]
        ahead[0] = max(0.0, ahead[0] + part * cohort.context_tokens)
        ahead[1] = max(0.0, ahead[1] + part * cohort.generated_tokens)
        here = self._here.get(cohort.tenant, 0.0) + part * cohort.n
        self._here[cohort.tenant] = max(0.0, here)

    def _turn_away(self, at_work: Ticket[Cohort] | None, step: int) -> None:
        """Those of the last step that came when as many of their tenant's waited as may."""
        for ticket in self._newest:
            cohort = ticket.item
            running = 0.0
            if at_work is not None and at_work.tenant_id == ticket.tenant_id:
                running = min(self._engines.places, at_work.item.n_left)
            over = self._here.get(cohort.tenant, 0.0) - running - self._desk.max_waiting
            n = min(math.ceil(over), math.floor(cohort.n_left))
            if n <= 0 or ticket.sequence not in self._queue:
                continue
            self._note(cohort, -cohort.left)
            self._door.turn_away(cohort, n, step)
            self._note(cohort, cohort.left)
            if not cohort.n:
                self._queue.remove(ticket.sequence)

    def _make_room(self, at_work: Cohort, came: Sequence[Cohort], *, others_wait: bool) -> None:
        """All places are taken: how those of priority that come in this step get theirs."""
        n, context = sum(one.n for one in came), sum(one.context_tokens for one in came)
        here = preemption.AtWork(
            at_work.tier,
            at_work.held,
            at_work.context_tokens / at_work.n,
            at_work.generated_tokens / at_work.n,
            self._engines.places,
            self._seconds(at_work) / at_work.n,
            self._engines.prefill_rate,
        )
        prefill_s = context / n / self._engines.prefill_rate
        promised_s = patient_until_s(self._desk.promised_s, others_wait=others_wait)
        self._room = preemption.room_for(n, here, self._step_s, prefill_s, promised_s)
        self.tiers[at_work.tier].preempted += self._room.n_cut
        self._again_tokens += self._room.n_cut * self._room.again_tokens

    def engines(self, sms: Sequence[int], now_s: float) -> None:
        """From `now_s` on there are engines on so many SMs each."""
        self._engines = Engines(
            sum(map(self._table.decode_rate, sms)),
            sum(map(self._table.prefill_rate, sms)),
            len(sms),
            sum(map(self._table.concurrent, sms)),
        )
        self._first_tokens.engines(self._engines, sms)
        if self._desk.admission is not None:
            self._desk.admission.engines(self._engines, now_s, waited_for=self.waiting > 0)

    def pause(self, sms: int, *, keeps_cache: bool) -> None:
        """An engine on so many SMs loses its lease: its requests go on later from their last
        token. Without its cache, what they had is read anew."""
        still_open = sum(math.ceil(n - 1e-9) for n in self._here.values())
        running = min(self._table.concurrent(sms), still_open)
        self.preempted += running
        if not keeps_cache:
            self._again_tokens += running * self._usual_tokens

    def advance(self, now_s: float, seconds: float) -> float:
        """Serves for so long from `now_s` on; returns for how much of it the engines worked."""
        if self._engines.decode_rate <= 0.0:
            self._first_tokens.stall(seconds)
            return 0.0
        left_s = seconds - self._read_again(now_s, seconds)
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

    def _read_again(self, now_s: float, most_s: float) -> float:
        """Reads what paused requests had; it is work, but not sold twice."""
        rate = self._engines.prefill_rate
        took_s = min(most_s, self._again_tokens / rate)
        self._again_tokens = max(0.0, self._again_tokens - took_s * rate)
        if self._desk.admission is not None:
            self._desk.admission.worked(took_s, now_s + took_s, done=False)
        return took_s

    def _serve(self, cohort: Cohort, now_s: float, most_s: float) -> float:
        whole_s = self._seconds(cohort)
        self._usual_tokens = (cohort.context_tokens + cohort.generated_tokens / 2.0) / cohort.n
        took_s = min(most_s, cohort.left * whole_s)
        part = took_s / whole_s
        self._note_wait(cohort, now_s, min(part, cohort.left), took_s)
        if self._desk.admission is not None:
            self._desk.admission.worked(took_s, now_s + took_s, done=True)
        cohort.left -= part
        self._note(cohort, -part)
        count = self.tiers[cohort.tier]
        count.generated_tokens += part * cohort.generated_tokens
        count.context_tokens += part * cohort.context_tokens
        if cohort.begun_s < self._begun_s:
            self._busy_old_s += took_s
        if cohort.left <= 1e-12:
            count.completed += cohort.n
            tokens = cohort.context_tokens, cohort.generated_tokens
            count.micro_usd += cohort.price.amount_micro_usd(*tokens)
            self._current = None
        return took_s

    def _seconds(self, cohort: Cohort) -> float:
        decode_s = cohort.generated_tokens / self._engines.decode_rate
        return decode_s + cohort.context_tokens / self._engines.prefill_rate

    def _note_wait(self, cohort: Cohort, now_s: float, part: float, took_s: float) -> None:
        """In line: what is before them, and a free place."""
        pieces = _PIECES if took_s > self._step_s / _PIECES else 1
        for number in range(pieces):
            done = (number + 0.5) / pieces
            # They are served in the order in which they came, spread over their step.
            came = 1.0 - cohort.left + part * done
            if cohort.begun_s < self._begun_s:
                came_s = cohort.begun_s + self._step_s * came
                wait_s = max(0.0, now_s + took_s * done - came_s)
            else:
                wait_s = self._busy_old_s if self._was_full else 0.0
            self._note_first_tokens(cohort, came, wait_s, cohort.n * part / pieces)

    def _note_first_tokens(self, cohort: Cohort, came: float, wait_s: float, n: float) -> None:
        if cohort.tier == "priority" and self._room is not None:
            wait_s += self._room.wait_s
        elif self._was_full:
            wait_s += self._seconds(cohort) / cohort.n
        if self._desk.admission is not None and cohort.predicted is not None:
            self._desk.admission.came(cohort.tier, cohort.predicted.at(came), wait_s, n)
        self._first_tokens.note(cohort, wait_s, n)

    @property
    def waiting(self) -> int:
        """Tickets that wait or are being served."""
        return (self._current is not None) + len(self._queue)

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens of answers, and of prompts, a second of all engines."""
        return self._engines.decode_rate, self._engines.prefill_rate

    @property
    def decode_rate(self) -> float:
        """Tokens a second of all engines."""
        return self._engines.decode_rate

    def totals(self) -> dict[str, dict[str, float]]:
        """By tier."""
        return {
            tier: {
                "arrived": count.arrived,
                "retried": count.retried,
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
