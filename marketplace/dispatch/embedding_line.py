"""The line before a model's engine for embeddings: by tier, then fair between tenants, then by age.

The same queue, prediction and yielding as for answers. What an answer's first token is to them, the
first input's embedding is here; a request may be interrupted between two of its inputs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from airan.core.clock import Clock
from airan.core.errors import AiranError, UnavailableError
from marketplace.dispatch.admission import FirstToken, SlotForecast, Work
from marketplace.dispatch.cold import is_cold
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.queue import TIERS, FairQueue, Ticket
from marketplace.dispatch.speeds import EngineSpeed
from marketplace.dispatch.waits import Asker, Before
from marketplace.pool import EnginePool, PooledEngine
from marketplace.siblings.sibling import TierCounts

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Inputs of one model on its engine at once: so many connections are kept to it."""
_RETRY_S = 0.1
_TELL_S, _TELL_AWAY_S = 1.0, 0.2
"""Between two words to an engine that there is work: one on a lease, and one without."""
COLD_START_S = 60.0
"""How long a request waits, at least, until a cold engine has loaded its model."""


@dataclass(eq=False)
class EmbeddingTurn:
    """A request for embeddings, in line or at work."""

    asker: Asker
    inputs: Sequence[Sequence[int]]
    timeout_s: float
    """How long it may wait while no engine has a lease."""
    started_s: float
    """Monotonic time at which it came in."""
    predicted_slot_s: float = 0.0
    """How long all of its inputs would take."""
    vectors: list[list[float]] = field(default_factory=list)
    ended: asyncio.Future[None] = field(default_factory=asyncio.Future)
    protected: bool = False
    """It runs because it had been passed over too often, and does not make room."""
    sequence: int = 0
    joined_s: float = 0.0
    slot_s: float = 0.0
    """How long it was at work until now."""
    input_since_s: float = 0.0
    """Monotonic time at which the engine was given the input at work."""
    failing_since_s: float | None = None
    """Monotonic time at which an engine on a lease began to break it off."""

    @property
    def work(self) -> Work:
        """What is left of it."""
        left = self.inputs[len(self.vectors) :]
        return Work(sum(map(len, left)), 1, max(1, len(left)))

    @property
    def is_whole(self) -> bool:
        """Nothing is left of it."""
        return len(self.vectors) == len(self.inputs)


class EmbeddingLine:
    """One model's. Runs in one event loop. `weights`: of tenants, by id, where they are not 1."""

    def __init__(
        self,
        model: str,
        pool: EnginePool,
        foresight: Foresight,
        clock: Clock,
        weights: Mapping[str, int],
    ) -> None:
        self.model = model
        self._pool = pool
        self._foresight = foresight
        self._clock = clock
        self._queue: FairQueue[EmbeddingTurn] = FairQueue(weights=weights)
        self._sequences = itertools.count(1)
        self._entering: dict[EmbeddingTurn, None] = {}
        self._running: dict[EmbeddingTurn, asyncio.Task[None]] = {}
        self._away_since_s = clock.monotonic_s()
        self._avoid_until_s = 0.0
        self._stopping = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def waiting_by_tier(self) -> TierCounts:
        """Requests in line."""
        waiting = self._queue.waiting
        return waiting("priority"), waiting("default"), waiting("flex")

    async def stop(self) -> None:
        """Breaks off what is at work; nothing more is begun."""
        self._stopping = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self) -> None:
        """An engine of the model came, went or is on another lease."""
        if self._leased() is None:
            self._away_since_s = max(self._away_since_s, self._clock.monotonic_s())
        self.pump()

    @contextmanager
    def entering(self, turn: EmbeddingTurn) -> Iterator[None]:
        """Has others that come meanwhile know of one that is being accepted."""
        self._entering[turn] = None
        try:
            yield
        finally:
            del self._entering[turn]

    def predict(self, turn: EmbeddingTurn) -> FirstToken | None:
        """When its first input will have its embedding; None: nothing was measured yet."""
        now_s, asker = self._clock.monotonic_s(), turn.asker
        rank = TIERS.index(asker.tier)
        coming = itertools.takewhile(lambda other: other is not turn, self._entering)
        before = [one for one in coming if TIERS.index(one.asker.tier) <= rank]
        slots = self._slots(asker, now_s)
        if not self._queue and not before and any(slot.free_in_s == 0.0 for slot in slots):
            first_s = slots[0].speed.prefill_s(turn.work.n_first)
            return None if first_s is None else FirstToken(0.0, first_s)
        ticket = self._ticket(turn, next(self._sequences))
        ahead = [one.item for one in self._queue.ahead_of(ticket)] if self._queue else []
        own = [one.item for one in self._queue] + before
        found = Before(
            [one.work for one in (*ahead, *before)], [one.work for one in own if one.asker == asker]
        )
        return self._foresight.waits.first_token(asker, turn.work, found, slots, now_s)

    def slot_s(self, turn: EmbeddingTurn) -> float:
        """How long the request takes a place; 0 where nothing was measured yet."""
        states = self._pool.states_of(self.model)
        speed = self._foresight.speeds.of(states[0]) if states else None
        return 0.0 if speed is None else SlotForecast(0.0, speed, 1).seconds(turn.work) or 0.0

    def join(self, turn: EmbeddingTurn) -> None:
        """Puts an accepted request in line."""
        turn.sequence, turn.joined_s = next(self._sequences), self._clock.monotonic_s()
        self._queue.push(self._ticket(turn, turn.sequence), accepted=True)
        self._pool.want(self.model)
        self.pump()

    async def wait(self, turn: EmbeddingTurn) -> list[list[float]]:
        """The embeddings of a request in line, when all of them are there.

        Raises:
            UnavailableError: no engine of the model had a lease for too long.
            InvalidInputError: the engine refuses an input.
        """
        try:
            while not turn.ended.done():
                away = self._leased() is None
                left_s = self._patience_s(turn)
                if away:
                    since_s = max(turn.joined_s, self._away_since_s)
                    left_s -= self._clock.monotonic_s() - since_s
                if left_s <= 0.0:
                    raise not_reached(self.model)
                self._pool.want(self.model)
                pause_s = _TELL_AWAY_S if away else _TELL_S
                await asyncio.wait({turn.ended}, timeout=min(left_s, pause_s))
            turn.ended.result()
            return turn.vectors
        finally:
            self._leave(turn)

    def pump(self) -> None:
        """Begins with what waits, in order, while there is room."""
        while len(self._running) < AT_ONCE and not self._stopping:
            if self._leased() is None or self._clock.monotonic_s() < self._avoid_until_s:
                return
            ticket = self._queue.pop()
            if ticket is None:
                return
            turn = ticket.item
            # Its turn has come although higher tiers wait: it would never get on otherwise.
            turn.protected = self._queue.waiting("priority") > 0
            task = self._running[turn] = asyncio.create_task(self._work(turn))
            task.add_done_callback(lambda _, turn=turn: self._worked(turn))  # type: ignore[misc]

    def _leave(self, turn: EmbeddingTurn) -> None:
        self._queue.remove(turn.sequence)
        if not turn.ended.done():
            turn.ended.cancel()
        task = self._running.get(turn)
        if task is not None:
            task.cancel()

    async def _work(self, turn: EmbeddingTurn) -> None:
        """Has input after input embedded, until all are or the place is wanted back."""
        began_s = self._clock.monotonic_s()
        try:
            while not turn.is_whole and not self._yields(turn):
                engine = self._leased()
                if engine is None:
                    return
                await self._embed(turn, engine)
        except UnavailableError:
            self._broke(turn)
        except AiranError as error:
            self._fail(turn, error)
        except Exception:
            log.exception("embeddings of %s failed", self.model)
            self._fail(turn, AiranError("the marketplace failed to run this request"))
        finally:
            passed_s = self._clock.monotonic_s() - began_s
            turn.slot_s += passed_s
            self._foresight.waits.progress.took(self.model, passed_s, self._clock.monotonic_s())

    def _worked(self, turn: EmbeddingTurn) -> None:
        """The turn has no place any more: it is over, or waits first in its tier."""
        del self._running[turn]
        if turn.is_whole and not turn.ended.done():
            turn.ended.set_result(None)
        if turn.ended.done():
            done_s = turn.predicted_slot_s if turn.is_whole else turn.slot_s
            now_s = self._clock.monotonic_s()
            self._foresight.waits.progress.did(self.model, done_s or turn.slot_s, now_s)
        elif not self._stopping:
            self._queue.put_back(self._ticket(turn, turn.sequence))
        self.pump()

    def _yields(self, turn: EmbeddingTurn) -> bool:
        """Whether flex work gives its place to priority work that waits."""
        wanted = self._queue.waiting("priority") > 0
        return wanted and turn.asker.tier == "flex" and not turn.protected

    async def _embed(self, turn: EmbeddingTurn, engine: PooledEngine) -> None:
        if engine.client is None:
            raise not_reached(self.model)
        ids, began_s = turn.inputs[len(turn.vectors)], self._clock.monotonic_s()
        turn.input_since_s = began_s
        turn.vectors.append(await engine.client.embed(ids))
        now_s, turn.failing_since_s = self._clock.monotonic_s(), None
        self._foresight.speeds.note_first_token(engine.state, len(ids), now_s - began_s)

    def _broke(self, turn: EmbeddingTurn) -> None:
        """The lease went meanwhile, or the engine fails: the next that has one makes it anew."""
        now_s = self._clock.monotonic_s()
        self._avoid_until_s = now_s + _RETRY_S
        asyncio.get_running_loop().call_later(_RETRY_S, self.pump)
        if turn.failing_since_s is None:
            turn.failing_since_s = now_s
        if now_s - turn.failing_since_s > self._patience_s(turn):
            self._fail(turn, not_reached(self.model))

    def _fail(self, turn: EmbeddingTurn, error: AiranError) -> None:
        if not turn.ended.done():
            turn.ended.set_exception(error)

    def _slots(self, asker: Asker, now_s: float) -> list[SlotForecast]:
        engine, away_s = self._leased(), 0.0
        states = [engine.state] if engine else self._pool.states_of(self.model)
        speed = self._foresight.speeds.of(states[0]) if states else None
        if engine is None:
            found = self._foresight.absence_s(self.model, self._pool.engines, now_s)
            if found is None:
                return []
            away_s = found
        if speed is None:
            return []
        lefts_s = [self._left_s(turn, asker, speed) for turn in self._running]
        lefts_s += [0.0] * (AT_ONCE - len(lefts_s))
        return [SlotForecast(away_s + left_s, speed, AT_ONCE) for left_s in lefts_s]

    def _left_s(self, turn: EmbeddingTurn, asker: Asker, speed: EngineSpeed) -> float:
        """Seconds until a turn at work gives its place to the asker's."""
        yields = asker.tier == "priority" and turn.asker.tier == "flex" and not turn.protected
        one_s = speed.prefill_s(turn.work.n_first) or 0.0
        since_s = min(one_s, max(0.0, self._clock.monotonic_s() - turn.input_since_s))
        return one_s * (1 if yields else turn.work.n_parts) - since_s

    def _ticket(self, turn: EmbeddingTurn, sequence: int) -> Ticket[EmbeddingTurn]:
        cost = max(1, turn.work.n_prompt)
        return Ticket(turn, turn.asker.tier, turn.asker.tenant_id, cost, sequence)

    def _leased(self) -> PooledEngine | None:
        """An engine that holds a lease: the RAN's capacity is not ours to use."""
        return self._pool.leased(self.model)

    def _patience_s(self, turn: EmbeddingTurn) -> float:
        cold = is_cold(self._pool.states_of(self.model))
        return max(turn.timeout_s, COLD_START_S) if cold else turn.timeout_s


def not_reached(model: str) -> UnavailableError:
    """What a client is told whose model has no engine on a lease."""
    return UnavailableError(
        f"no engine for {model} can be reached", remedy="try again in a few seconds"
    )
