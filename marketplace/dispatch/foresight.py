"""What the engines are measured at, and what follows for a request that comes in now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

from marketplace.dispatch.admission import FirstToken, SlotForecast, TtftTargets, Work
from marketplace.dispatch.cold import ColdStarts, is_cold
from marketplace.dispatch.common import CommonEngines, places_of
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.making_room import Seen
from marketplace.dispatch.outages import Outages
from marketplace.dispatch.places import Place, Room, choose_place, rooms_for
from marketplace.dispatch.prefixes import PrefixTable, SlotKey, blocks_of
from marketplace.dispatch.speeds import EngineSpeed, Speeds
from marketplace.dispatch.turns import Turn, can_yield
from marketplace.dispatch.waits import Asker, Before, Waits
from marketplace.dispatch.yielding import patience_s, patient_until_s
from marketplace.jobs import Job
from marketplace.pool import PooledEngine


@dataclass(frozen=True)
class _Question:
    """When the job would have a place."""

    job: Job
    promised_s: float
    """To a first token of priority."""
    now_s: float
    least: int = 0
    """Places that are taken to be ours of an engine, though none be now."""


class Foresight:
    """Notes what engines do with their turns, and predicts times to first token from it."""

    def __init__(self, lengths: Lengths, common: CommonEngines, weights: Mapping[str, int]) -> None:
        self.speeds = Speeds()
        self.prefixes = PrefixTable()
        self.outages = Outages()
        self.cold = ColdStarts()
        self.waits = Waits(weights)
        self.promised_s = TtftTargets().priority
        """To the first token of a request of priority."""
        self._lengths = lengths
        self._common = common

    def begin(self, turn: Turn, now_s: float) -> None:
        """An engine is asked to work on the turn."""
        job = turn.job
        key = (turn.engine.state.url, turn.slot)
        tokens = [*(job.prompt_ids or ()), *job.token_ids]
        blocks = blocks_of(tokens, job.prefix_owner)
        n_held = self.prefixes.match_tokens(key, blocks)
        n_tokens = self.work(job).n_prompt if job.tally is not None else len(tokens)
        turn.n_new, turn.began_s = max(1, n_tokens - n_held), now_s
        # What comes after the part in common is thrown away before the rest is worked on.
        self.prefixes.note(key, blocks[: self.prefixes.match(key, blocks)])

    def tokens(self, turn: Turn, n_tokens: int, now_s: float) -> None:
        """The engine gave some tokens."""
        state = turn.engine.state
        if not turn.began_s:
            # It came from a peer, whole: that tells nothing of first and further tokens.
            return
        if turn.last_token_s is None:
            self.speeds.note_first_token(state, turn.n_new, now_s - turn.began_s)
        else:
            seconds = (now_s - turn.last_token_s) / n_tokens
            self.speeds.note_tokens(state, self._common.n_running(turn.engine), seconds)
        turn.last_token_s = now_s

    def overwritten(self) -> None:
        """Other gateways have used slots: these hold nothing any more that we know of."""
        for engine, slot in self._common.overwritten():
            engine.forget(slot)
            self.prefixes.note((engine.state.url, slot), ())

    def end(self, turn: Turn, now_s: float) -> None:
        """The engine works on the turn no more; its slot keeps what it saw."""
        job = turn.job
        if turn.began_s and turn.engine.peer is None:
            job.slot_s += now_s - turn.began_s
            self.waits.progress.took(job.model, now_s - turn.began_s, now_s)
            if turn.reason is not None and job.n_answer_predicted:
                self._predict_again(job, turn.engine)
        if turn.last_token_s is not None:
            tokens = [*(job.prompt_ids or ()), *job.token_ids]
            blocks = blocks_of(tokens, job.prefix_owner)
            self.prefixes.note((turn.engine.state.url, turn.slot), blocks)

    def first_token(
        self, job: Job, lines: WaitingLines, engines: Sequence[PooledEngine], now_s: float
    ) -> FirstToken | None:
        """When the job would have its first token; None: nothing was measured yet."""
        model = job.model
        line = lines.of(model)
        engines = [one for one in engines if one.state.model == model]
        coming = lines.coming_before(job)
        if not line and not coming:
            tier = job.request.service_tier
            if rooms := rooms_for(model, engines, self._common, now_s, tier):
                return self._at_once(job, rooms)
        ahead = [ticket.item for ticket in line.ahead_of(lines.ticket(job))] if line else []
        asker = asker_of(job)
        own = lines.of_tenant(model, asker.tier, asker.tenant_id)
        own += [one for one in coming if asker_of(one) == asker]
        before = Before(
            [self.work(one) for one in (*ahead, *coming)],
            [self.work(one) for one in own if one is not job],
        )
        others_wait = line.waiting("default") > 0 or self._common.default_waits(model)
        promised_s = patient_until_s(self.promised_s, others_wait=others_wait)
        slots = self._slots(_Question(job, promised_s, now_s), engines)
        return self.waits.first_token(asker, self.work(job), before, slots, now_s)

    def came(self, job: Job, ttft_s: float) -> None:
        """The job had its first token so many seconds after its arrival."""
        if job.predicted_ttft_s is not None:
            waited_s = job.predicted_wait_s + ttft_s - job.predicted_ttft_s
            predicted = FirstToken(job.predicted_wait_s, 0.0, job.predicted_spread_s)
            self.waits.came(asker_of(job), predicted, waited_s)

    def asked(self, job: Job, engines: Sequence[PooledEngine], now_s: float) -> None:
        """A tenant asks for the job, whether it is accepted or not."""
        self.waits.asked(asker_of(job), self._slot_s(job, engines), now_s)

    def accepted(self, job: Job, engines: Sequence[PooledEngine], now_s: float) -> None:
        """The job will take its time on some slot."""
        job.n_answer_predicted = self.work(job).n_answer
        job.predicted_slot_s = self._slot_s(job, engines)
        self.waits.accepted(asker_of(job), job.predicted_slot_s, now_s)

    def _predict_again(self, job: Job, engine: PooledEngine) -> None:
        """What the job would take at the engine's present speed: that the speed has changed since
        it was accepted is known already, and must not count twice."""
        state, speed = engine.state, self.speeds.of(engine.state)
        if speed is not None:
            work = Work(self._lengths.prompt_tokens(job), job.n_answer_predicted)
            slot = SlotForecast(0.0, speed, state.max_concurrent or state.n_slots or 1)
            job.predicted_slot_s = slot.seconds(work) or 0.0

    def ended(self, job: Job, now_s: float) -> None:
        """The job has its outcome; what was cut short tells nothing of predictions."""
        whole = job.state == "completed" and job.predicted_slot_s
        self.waits.progress.did(job.model, whole or job.slot_s, now_s)
        if whole:
            self.waits.spread.note(job.model, whole, job.slot_s)

    def served(
        self, model: str, is_served: bool, n_slots: int, waited_for: bool, now_s: float
    ) -> None:
        """Whether the model has an engine from now on, and whether work waits for it."""
        lasted_s = self.outages.note(model, is_served, now_s)
        if waited_for:
            self.waits.progress.took(model, lasted_s * n_slots, now_s)

    def _slot_s(self, job: Job, engines: Sequence[PooledEngine]) -> float:
        """How long the job takes a slot; 0 where nothing was measured yet."""
        model = job.model
        state = next((one.state for one in engines if one.state.model == model), None)
        speed = None if state is None else self.speeds.of(state)
        if state is None or speed is None:
            return 0.0
        return SlotForecast(0.0, speed, state.max_concurrent or 1).seconds(self.work(job)) or 0.0

    def choose(self, job: Job, rooms: list[Room], kept: Collection[SlotKey]) -> Place:
        """Where the job should run."""
        tokens = [*(job.prompt_ids or ()), *job.token_ids]
        blocks = blocks_of(tokens, job.prefix_owner)
        return choose_place(self.work(job), blocks, rooms, self.prefixes, self.speeds, kept)

    def _at_once(self, job: Job, rooms: list[Room]) -> FirstToken | None:
        place = self.choose(job, rooms, ())
        speed = self.speeds.of(place.engine.state)
        n_new = max(1, self.work(job).n_prompt - place.n_held)
        prefill_s = None if speed is None else speed.prefill_s(n_new)
        return None if prefill_s is None else FirstToken(0.0, prefill_s)

    def work(self, job: Job) -> Work:
        """What the job will probably take."""
        n_prompt = self._lengths.prompt_tokens(job) + len(job.token_ids)
        return Work(n_prompt, self._lengths.answer_tokens(job))

    def _slots(self, asked: _Question, engines: Sequence[PooledEngine]) -> list[SlotForecast]:
        """Every place that is ours, and when it is free."""
        job = asked.job
        blocks = blocks_of(job.prompt_ids or (), job.prefix_owner)
        ready = [one for one in engines if one.state.phase == "ready"]
        outage_s = 0.0 if ready else self.absence_s(job.model, engines, asked.now_s)
        if outage_s is None:
            return []
        found: list[SlotForecast] = []
        for engine in ready or engines:
            state, speed = engine.state, self.speeds.of(engine.state)
            if speed is None:
                continue
            n_at_once = (state.max_concurrent if ready else state.n_slots) or 1
            for slot, left_s in self._frees(asked, engine, speed, n_at_once):
                n_held = self.prefixes.match_tokens((state.url, slot), blocks)
                found.append(SlotForecast(outage_s + left_s, speed, n_at_once, n_held))
        if not found and self._common.is_shared and not asked.least:
            # The others need all places now: our turn comes all the same.
            return self._slots(replace(asked, least=1), engines)
        return found

    def _frees(
        self, asked: _Question, engine: PooledEngine, speed: EngineSpeed, n_at_once: int
    ) -> list[tuple[int, float]]:
        """The slots that are ours of an engine with so many places, and the seconds until each is
        free. -1: it is not known which one it will be."""
        common, n_slots = self._common, max(engine.state.n_slots, 1)
        n_ours = common.share(engine, n_at_once, asked.job.request.service_tier)
        n_ours = max(n_ours, asked.least)
        found = [
            (turn.slot, self._turn_frees_s(asked, turn, speed, n_at_once))
            for turn in common.turns.on(engine)
        ]
        if common.is_shared:
            # What is over our share goes to others when it is free, and that is first.
            found.sort(key=lambda one: -one[1])
        found = found[:n_ours]
        used, n_more = common.used(engine), min(n_ours, n_slots) - len(found)
        free = (slot for slot in range(n_slots) if slot not in used)
        later_s = self._frees_elsewhere_s(asked, engine, n_at_once, n_more)
        return found + list(zip(chain(free, repeat(-1)), later_s, strict=False))

    def _turn_frees_s(
        self, asked: _Question, turn: Turn, speed: EngineSpeed, n_at_once: int
    ) -> float:
        left_s = self._left_s(turn, n_at_once, asked.now_s)
        if asked.job.request.service_tier != "priority" or not can_yield(turn):
            return left_s
        one = Seen(turn, speed, n_at_once, asked.now_s, self._lengths)
        # It is waited for, or else cut off at once.
        return left_s if left_s <= self._patience_s(asked, one, speed) else 0.0

    def _frees_elsewhere_s(
        self, asked: _Question, engine: PooledEngine, n_at_once: int, n_more: int
    ) -> list[float]:
        """When so many places are free that are ours, and have nothing of ours on them.

        The others' answers there are taken to be as long as this one, and to end evenly in that
        time; their flex work makes room for priority.
        """
        elsewhere, speed = self._common.elsewhere(engine), self.speeds.of(engine.state)
        if not any(elsewhere):
            return [0.0] * n_more
        n_now = max(0, places_of(engine) - self._common.n_running(engine))
        if asked.job.request.service_tier == "priority":
            n_now += elsewhere[2]
        token_s = 0.0 if speed is None else speed.token_s(n_at_once)
        each_s = self.work(asked.job).n_answer * token_s / (sum(elsewhere) + 1)
        return [max(0, number - n_now) * each_s for number in range(1, n_more + 1)]

    def _patience_s(self, asked: _Question, one: Seen, speed: EngineSpeed) -> float:
        """How long the job of priority waits for that turn's end rather than have it cut off."""
        prefill_s = speed.prefill_s(self.work(asked.job).n_prompt) or 0.0
        return patience_s(one.resume_s, prefill_s, asked.promised_s)

    def absence_s(self, model: str, engines: Sequence[PooledEngine], now_s: float) -> float | None:
        """Seconds until an engine of the model, which has none on a lease, will have one."""
        states = [one.state for one in engines if one.state.model == model]
        if is_cold(states):
            return self.cold.wait_s(model, states, now_s)
        return self.outages.wait_s(model, now_s)

    def _left_s(self, turn: Turn, n_at_once: int, now_s: float) -> float:
        """Seconds until the turn's slot is free."""
        speed = self.speeds.of(turn.engine.state)
        if speed is None:
            return 0.0
        left_s = self._lengths.answer_tokens(turn.job) * speed.token_s(n_at_once)
        if turn.last_token_s is None:
            left_s += max(0.0, (speed.prefill_s(turn.n_new) or 0.0) - (now_s - turn.began_s))
        return left_s


def asker_of(job: Job) -> Asker:
    """Whose job it is, and its line."""
    return Asker(job.model, job.request.service_tier, job.principal.tenant_id)
