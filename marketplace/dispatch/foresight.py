"""What the engines are measured at, and what follows for a request that comes in now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from marketplace.dispatch.admission import FirstToken, SlotForecast, TtftTargets, Work
from marketplace.dispatch.cold import ColdStarts, is_cold
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.making_room import Seen
from marketplace.dispatch.outages import Outages
from marketplace.dispatch.places import Place, Room, choose_place, rooms_for
from marketplace.dispatch.prefixes import PrefixTable, SlotKey, blocks_of
from marketplace.dispatch.speeds import EngineSpeed, Speeds
from marketplace.dispatch.turns import Turn, Turns, can_yield
from marketplace.dispatch.waits import Asker, Before, Waits
from marketplace.dispatch.yielding import patience_s, patient_until_s
from marketplace.jobs import Job
from marketplace.pool import PooledEngine


class Foresight:
    """Notes what engines do with their turns, and predicts times to first token from it."""

    def __init__(self, lengths: Lengths, turns: Turns, weights: Mapping[str, int]) -> None:
        self.speeds = Speeds()
        self.prefixes = PrefixTable()
        self.outages = Outages()
        self.cold = ColdStarts()
        self.waits = Waits(weights)
        self.promised_s = TtftTargets().priority
        """To the first token of a request of priority."""
        self._lengths = lengths
        self._turns = turns

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
            self.speeds.note_tokens(state, self._turns.count(turn.engine), seconds)
        turn.last_token_s = now_s

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
        if not line and not coming and (rooms := rooms_for(model, engines, self._turns, now_s)):
            return self._at_once(job, rooms)
        ahead = [ticket.item for ticket in line.ahead_of(lines.ticket(job))] if line else []
        asker = asker_of(job)
        own = lines.of_tenant(model, asker.tier, asker.tenant_id)
        own += [one for one in coming if asker_of(one) == asker]
        before = Before(
            [self.work(one) for one in (*ahead, *coming)],
            [self.work(one) for one in own if one is not job],
        )
        others_wait = line.waiting("default") > 0
        promised_s = patient_until_s(self.promised_s, others_wait=others_wait)
        slots = self._slots(job, engines, promised_s, now_s)
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

    def _slots(
        self, job: Job, engines: Sequence[PooledEngine], promised_s: float, now_s: float
    ) -> list[SlotForecast]:
        """Every place, and when it is free; `promised_s`: to a first token of priority."""
        blocks = blocks_of(job.prompt_ids or (), job.prefix_owner)
        ready = [one for one in engines if one.state.phase == "ready"]
        outage_s = 0.0 if ready else self.absence_s(job.model, engines, now_s)
        if outage_s is None:
            return []
        urgent = job.request.service_tier == "priority"
        found: list[SlotForecast] = []
        for engine in ready or engines:
            state, speed = engine.state, self.speeds.of(engine.state)
            if speed is None:
                continue
            turns = {turn.slot: turn for turn in self._turns.on(engine)}
            n_at_once = (state.max_concurrent if ready else state.n_slots) or 1
            slots = [*turns, *(slot for slot in range(max(state.n_slots, 1)) if slot not in turns)]
            for slot in slots[:n_at_once]:
                left_s = 0.0
                if slot in turns:
                    left_s = self._left_s(turns[slot], n_at_once, now_s)
                if urgent and slot in turns and can_yield(turns[slot]):
                    one = Seen(turns[slot], speed, n_at_once, now_s, self._lengths)
                    # It is waited for, or else cut off at once.
                    left_s = (
                        left_s if left_s <= self._patience_s(job, one, speed, promised_s) else 0.0
                    )
                n_held = self.prefixes.match_tokens((state.url, slot), blocks)
                found.append(SlotForecast(outage_s + left_s, speed, n_at_once, n_held))
        return found

    def _patience_s(self, job: Job, one: Seen, speed: EngineSpeed, promised_s: float) -> float:
        """How long the job of priority waits for that turn's end rather than have it cut off."""
        prefill_s = speed.prefill_s(self.work(job).n_prompt) or 0.0
        return patience_s(one.resume_s, prefill_s, promised_s)

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
