"""The dispatcher: jobs wait in line, run on engines, and survive the engines they run on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError, UnavailableError
from marketplace.billing.desk import Desk
from marketplace.billing.spot import SpotPrice
from marketplace.dispatch.admission import TierUnreachableError, TtftTargets
from marketplace.dispatch.cold import is_cold
from marketplace.dispatch.common import TURN_S, CommonEngines
from marketplace.dispatch.embedder import Embedder
from marketplace.dispatch.embedding_line import AT_ONCE
from marketplace.dispatch.endings import Endings
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.gate import Gate
from marketplace.dispatch.generation import Generation
from marketplace.dispatch.journal import Journal
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.making_room import MakingRoom
from marketplace.dispatch.offers import ModelOffer, ask_for
from marketplace.dispatch.overflow import Overflow, check_guest
from marketplace.dispatch.patience import Patience
from marketplace.dispatch.places import free_share, rooms_for, with_adapter
from marketplace.dispatch.prefixes import SlotKey
from marketplace.dispatch.preparation import Preparation
from marketplace.dispatch.text_turns import not_served, why_it_ends
from marketplace.dispatch.turns import Turn, Turns, rank
from marketplace.engines.base import EngineState
from marketplace.engines.external_model import ExternalModel
from marketplace.federation.peers import Federation
from marketplace.federation.travel import Sending
from marketplace.jobs import WAITING, Job
from marketplace.meter import Meter
from marketplace.pool import EnginePool, PooledEngine
from marketplace.siblings.sibling import Report, Sibling
from marketplace.store.database import Database

log = logging.getLogger(__name__)

_AVOID_S = 0.3
_MAX_SETBACKS = 8


class Dispatcher:
    """Runs jobs by tier, fair share and age; one that lost its engine goes first in its tier.

    Runs in one event loop. Every job submitted ends exactly once, with an Outcome on its feed.
    """

    def __init__(
        self,
        database: Database,
        offers: dict[str, ModelOffer],
        agent_urls: tuple[str, ...],
        meter: Meter,
        clock: Clock,
        *,
        max_waiting: int = 512,
        targets: TtftTargets | None = None,
        externals: tuple[ExternalModel, ...] = (),
        federation: Federation | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this gateway tells of the engines, which several follow."""
        self._db = database
        self._offers = offers
        self._meter = meter
        self._clock = clock
        self._journal = Journal(database, clock, leads)
        self._turns = Turns()
        self._lengths = Lengths()
        list_prices = {name: offer.price for name, offer in offers.items()}
        self.desk = Desk(database, list_prices, clock, SpotPrice(self.free_share))
        weights = self.desk.weights
        self._lines = WaitingLines(list(offers), self._lengths, weights, max_waiting)
        self._common = CommonEngines(self._turns, self._lines, clock)
        self._foresight = Foresight(self._lengths, self._common, weights)
        self._foresight.promised_s = (targets or TtftTargets()).priority
        speeds = self._foresight.speeds
        self._room = MakingRoom(self._lines, self._common, self._lengths, speeds, clock)
        federation = federation or Federation()
        self._overflow = Overflow(federation, database, self._turns, self._foresight, clock)
        self.pool = EnginePool(agent_urls, self._engine_changed, externals, federation.peers)
        self._overflow.engines = self._common.engines = self.pool.engines
        self._gate = Gate(
            self._foresight, self._lines, self._overflow, clock, targets or TtftTargets()
        )
        self._preparation = Preparation(offers, self.pool, self._gate, clock, self._refused)
        away = self._overflow.away
        self._generation = Generation(
            self._foresight, self._journal, away, meter, clock, self.prepare
        )
        self._endings = Endings(
            self.desk, self._foresight, self._lengths, away, meter, offers, clock
        )
        self.embedder = Embedder(
            database,
            self.pool,
            self.desk,
            meter,
            clock,
            foresight=self._foresight,
            gate=self._gate,
        )
        self._common.embeddings = self.embedder.waiting_by_tier
        self._patience = Patience(self._lines, self._fail)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def waiting(self) -> list[Job]:
        """Jobs without an engine now, the oldest of each model first."""
        return list(self._lines)

    @property
    def running(self) -> list[Job]:
        """Jobs on an engine now."""
        return [turn.job for turn in self._turns]

    def running_on(self, engine: PooledEngine) -> int:
        """Jobs on that engine now."""
        return self._turns.count(engine)

    def report(self) -> Report:
        """What the other gateways are to know of our work."""
        return self._common.report()

    def meet(self, siblings: Sequence[Sibling], number: int) -> None:
        """Shares the engines with these gateways from now on; `number` is our seat."""
        self._common.meet(siblings, number)
        self._foresight.overwritten()
        for turn in list(self._common.collided()):
            turn.end("preempt")
        self._pump()

    def load(self, model: str) -> int:
        """Jobs of that model, running and waiting, the other gateways' too."""
        here = [turn.job for turn in self._turns if turn.engine.peer is None]
        n_running = sum(job.model == model for job in here)
        return n_running + len(self._lines.of(model)) + self._common.load(model)

    def start(self) -> None:
        """Begins to follow the engines and to run jobs."""
        self.pool.start()
        self._ticker = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Cuts all streams. Jobs stay open in the store: the next start deals with them."""
        self._stopping = True
        self._room.stop()
        self._patience.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        for turn in self._turns:
            turn.end("preempt")
        await self.embedder.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.stop()

    async def prepare(self, job: Job, timeout_s: float) -> None:
        """Turns the messages into tokens, and settles how many may be generated.

        Raises: as `Preparation.run` does.
        """
        await self._preparation.run(job, timeout_s)

    async def submit(self, job: Job) -> None:
        """Takes responsibility for the job. An asynchronous one is stored when this returns.

        Raises:
            CapacityError: too many jobs of its tenant are waiting.
            TierUnreachableError: its first token could not come in its tier's time.
            QuotaExceededError, BudgetExceededError: a limit of the tenant's refuses it.
        """
        row = {
            "id": job.id,
            "kind": job.kind,
            "tenant_id": job.principal.tenant_id,
            "key_id": job.principal.key_id,
            "model": job.request.model,
            "request": job.request.body if job.kind == "async" else None,
            "input_tokens": job.n_input,
            "gateway_id": self._db.gateway_id,
        }
        durable = job.kind == "async"
        with self._lines.entering(job):
            await self._admit(job)
            ask = ask_for(job, self._offers[job.model])
            try:
                await self.desk.reserve(row, ask, job.created_s, durable=durable)
            except BaseException:
                self._overflow.drop(job)
                raise
            if (peer := self._overflow.next(job, self._clock.monotonic_s())) is not None:
                self._begin(Turn(job, peer, self._turns.count(peer)))
                return
            self._foresight.accepted(job, self.pool.engines, self._clock.monotonic_s())
            self.enqueue(job)

    async def _admit(self, job: Job) -> None:
        check_guest(job, self.pool.engines, self._common, self._lines.n_before(job))
        try:
            await self._gate.admit(job)
        except TierUnreachableError:
            await self._refused(job)
            raise

    async def _refused(self, job: Job) -> None:
        self._meter.refused(job.request.service_tier)
        await self.desk.show_limits(job.principal)

    def free_share(self) -> float:
        """The part of our own engines' places that nothing runs on or waits for, 0 to 1."""
        n_waiting = sum(self.pool.external(job.model) is None for job in self._lines)
        return free_share(self.pool.engines, self._common, n_waiting)

    async def take_up(self, job: Job, sending: Sending) -> None:
        """Goes on with an accepted job that an earlier gateway sent to a peer, there or here."""
        n_ctx = self._offers[job.model].n_ctx
        job.max_tokens = job.request.max_tokens or n_ctx - job.n_input
        peer = await self._overflow.take_up(job, sending)
        if peer is None:
            self.enqueue(job)
        else:
            self._begin(Turn(job, peer, self._turns.count(peer)))

    async def account_for(self, sending: Sending) -> None:
        """Closes what an earlier gateway left open, at a peer, of a job that has ended."""
        row = await self._db.call(self._db.ledger.job, sending.job_id)
        if row is not None:
            self._overflow.account_for(sending, row)

    def enqueue(self, job: Job) -> None:
        """Puts an accepted job in line, however many there are."""
        self.pool.want(job.model)
        self._lines.join(job)
        self._pump()

    async def cancel(self, job: Job) -> None:
        """The client is gone: stops the engine and ends the job, billed for what it has."""
        if job.outcome is not None:
            return
        turn = self._turns.of(job)
        if turn is not None:
            turn.end("cancel")
            return
        if self._lines.leave(job):
            await self._endings.finish(job, "cancelled")

    async def give_up(self, job: Job, error: AiranError) -> None:
        """Ends a job that waits for what will never come."""
        if self._lines.leave(job):
            await self._endings.finish(job, "failed", error=error)

    # Engines

    def _engine_changed(self, engine: PooledEngine, before: EngineState) -> None:
        state = engine.state
        turns = self._turns.on(engine)
        usable = state.phase == "ready" and state.url == before.url
        # A lease with fewer SMs carries fewer requests: the lowest tier's latest make room.
        keep = self._common.kept(engine) if usable else 0
        # Streams of an external engine show by themselves whether they go on.
        for turn in sorted(turns, key=rank)[keep:] if engine.external is None else ():
            turn.end("preempt")
        for model in {before.model, state.model} - {""}:
            self._note_absence(model)
            self.embedder.changed(model)
        if state.url != before.url:
            self._foresight.prefixes.forget(before.url)
        if state.phase != before.phase:
            self._journal.engine_changed(before, state)
            if engine.external is not None and state.phase == "lost":
                self._patience.begin(engine, engine.external.model.patience_s)
        self._pump()

        if state.n_cold_starts != before.n_cold_starts and state.n_cold_starts and before.version:
            self._meter.cold_start(state.model, state.cold_start_s)
        if state.phase == "cold" and self._lines.of(state.model):
            self.pool.want(state.model)

    def _note_absence(self, model: str) -> None:
        now_s, states = self._clock.monotonic_s(), self.pool.states_of(model)
        engines = [one for one in self.pool.engines if one.state.model == model]
        shares = (self._common.share(one, one.state.max_concurrent) for one in engines)
        n_slots = max(shares, default=0)
        n_slots = min(n_slots, AT_ONCE) if self.embedder.waiting(model) else n_slots
        waited_for = bool(self._lines.of(model)) or self.embedder.waiting(model) > 0
        self._foresight.served(model, self._is_served(model), n_slots, waited_for, now_s)
        if is_cold(states):
            self._foresight.outages.forget(model)
        self._foresight.cold.note(model, states, now_s)

    def _fail(self, job: Job, error: UnavailableError) -> None:
        self._keep_task(self._endings.finish(job, "failed", error=error))

    def _keep_task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _is_served(self, model: str) -> bool:
        states = [engine.state for engine in self.pool.engines]
        return any(state.phase == "ready" and state.model == model for state in states)

    def _pump(self) -> None:
        """Starts waiting jobs, in order, while there is room."""
        for model in self._lines.models:
            passed, overdue = list[Job](), self._common.is_overdue(model)
            while self._lines.of(model) and not self._stopping:
                now_s = self._clock.monotonic_s()
                rooms = rooms_for(model, self.pool.engines, self._common, now_s)
                job = self._lines.take(model) if rooms else None
                if job is None:
                    break
                if not (rooms := with_adapter(job.adapter_id, rooms)):
                    passed.append(job)
                    continue
                place = self._foresight.choose(job, rooms, self._kept(model))
                turn = Turn(job, place.engine, place.slot)
                # Its turn has come although higher tiers wait: it would never get on otherwise.
                turn.protected = self._lines.of(model).waiting("priority") > 0 or overdue
                self._begin(turn)
            for job in passed:
                # No engine with room has loaded its adapter yet.
                self._lines.put_back(job)
            if not self._stopping:
                self._room.make(model, self._gate.targets.priority, self._pump, passed)

    def _kept(self, model: str) -> set[SlotKey]:
        """Slots that hold what waiting jobs have so far."""
        return {job.place for job in self._lines.interrupted(model) if job.place is not None}

    # Turns

    def _begin(self, turn: Turn) -> None:
        job = turn.job
        job.place = (turn.engine.state.url, turn.slot)
        self._turns.begin(turn)
        turn.task = self._keep_task(self._run(turn))

    async def _run(self, turn: Turn) -> None:
        job = turn.job
        failure: AiranError | None = None
        turn.begun = True
        try:
            if turn.cut is None:
                await self._generation.run(turn)
        except asyncio.CancelledError:
            if turn.cut is None:
                raise
        except AiranError as error:
            failure = self._engine_failed(turn, error)
        except Exception:
            log.exception("job %s failed", job.id)
            failure = AiranError("the marketplace failed to run this request")
        finally:
            self._turns.end(job)
            self._foresight.end(turn, self._clock.monotonic_s())
            self._overflow.ended(turn)
        # From here on no cut can reach the job: it is not on an engine any more.
        self._pump()
        if turn.reason is not None:
            await self._endings.finish(job, "completed", turn.reason)
        elif failure is not None:
            await self._endings.finish(job, "failed", error=failure)
        elif turn.cut == "cancel":
            await self._endings.finish(job, "cancelled")
        elif not self._overflow.away.stays(turn) and not self._go_elsewhere(turn):
            self._preempt(job, turn)

    def _go_elsewhere(self, turn: Turn) -> bool:
        """After a peer broke off before its first word, has another peer asked, if there is one."""
        job = turn.job
        if turn.engine.peer is None or turn.cut is not None or job.raw_text or self._stopping:
            return False
        peer = self._overflow.next(job, self._clock.monotonic_s())
        if peer is None:
            return False
        self._begin(Turn(job, peer, self._turns.count(peer)))
        return True

    def _engine_failed(self, turn: Turn, error: AiranError) -> AiranError | None:
        """Leaves the engine alone for a moment; an error if the job has had bad luck too often, or
        is to blame."""
        if turn.engine.peer is not None:
            self._overflow.broke(turn, error, self._clock.monotonic_s())
            return None
        if not isinstance(error, UnavailableError | CapacityError):
            return error
        log.info("job %s lost its engine: %s", turn.job.id, error)
        turn.engine.avoid_until_s = self._clock.monotonic_s() + _AVOID_S
        asyncio.get_running_loop().call_later(_AVOID_S, self._pump)
        turn.job.setbacks += 1
        if turn.engine.external is not None:
            too_often = turn.job.setbacks >= _MAX_SETBACKS
            return not_served(turn.job.request.model) if too_often else why_it_ends(turn, error)
        return error if turn.job.setbacks >= _MAX_SETBACKS else None

    def _preempt(self, job: Job, turn: Turn) -> None:
        job.pause()
        self._meter.preempted("priority" if turn.yields else "engine")
        self._journal.paused(job, turn)
        self._lines.put_back(job)
        self._pump()

    async def _keep_alive(self) -> None:
        """Lets the clients of waiting jobs, and of those whose end is not stored yet, know that
        their connection lives, and takes the places that have become ours."""
        while True:
            await asyncio.sleep(TURN_S - self._clock.now_s() % TURN_S)
            if self._common.is_shared:
                self._pump()
            for job in self._lines:
                self.pool.want(job.model)
                job.feed.put_nowait(WAITING)
            for job in self._endings.under_way:
                job.feed.put_nowait(WAITING)
