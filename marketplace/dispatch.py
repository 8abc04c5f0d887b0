"""The dispatcher: jobs wait in order, run on engines, and survive the engines they run on."""

from __future__ import annotations

import asyncio
import heapq
import logging
from dataclasses import dataclass
from typing import Literal

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError, InvalidInputError, UnavailableError
from marketplace.billing.desk import Desk
from marketplace.billing.quotes import Ask
from marketplace.billing.spot import SpotPrice
from marketplace.chat import ChatRequest
from marketplace.engines.base import EngineState, FinishReason
from marketplace.jobs import WAITING, Job
from marketplace.meter import Meter
from marketplace.money import Price
from marketplace.pool import EnginePool, PooledEngine
from marketplace.store.database import Database
from marketplace.store.ledger import Outcome

log = logging.getLogger(__name__)

_CHECKPOINT_S = 1.0
_KEEP_ALIVE_S = 2.0
_AVOID_S = 0.3
_RETRY_S = 0.1
_MAX_SETBACKS = 8
Cut = Literal["preempt", "cancel"]


@dataclass(frozen=True)
class ModelOffer:
    """A model as sold."""

    name: str
    n_ctx: int
    price: Price


@dataclass(eq=False)
class Turn:
    """A job's stay on one slot of one engine."""

    job: Job
    engine: PooledEngine
    slot: int
    task: asyncio.Task[None] | None = None
    cut: Cut | None = None
    begun: bool = False
    reason: FinishReason | None = None
    """Set as soon as the answer is complete; a cut that comes later changes nothing."""

    def end(self, cut: Cut) -> None:
        """Closes the stream to the engine; what was received stays with the job."""
        first = self.cut is None
        # A client that leaves while its job is being preempted must not find it going on.
        if first or cut == "cancel":
            self.cut = cut
        # A task cancelled before its first step would never put its slot back.
        if first and self.begun and self.task is not None:
            self.task.cancel()


class ContextLengthError(InvalidInputError):
    """Prompt and answer do not fit the model's context."""

    def __init__(self, n_ctx: int, n_prompt: int, n_answer: int) -> None:
        self.n_ctx = n_ctx
        asked = f"{n_prompt} in the messages" + (
            f", {n_answer} in the completion" if n_answer else ""
        )
        super().__init__(
            "messages",
            f"This model's maximum context length is {n_ctx} tokens. However, your request needs "
            f"{n_prompt + max(n_answer, 1)} tokens ({asked}).",
            remedy="shorten the messages or lower max_tokens",
        )


class Dispatcher:
    """Runs jobs in the order they came; one that lost its engine goes before those after it.

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
    ) -> None:
        self._db = database
        self._offers = offers
        self._meter = meter
        self._clock = clock
        self._max_waiting = max_waiting
        list_prices = {name: offer.price for name, offer in offers.items()}
        self.desk = Desk(database, list_prices, clock, SpotPrice(self.free_share))
        self.pool = EnginePool(agent_urls, self._engine_changed)
        self._waiting: list[tuple[int, Job]] = []
        self._turns: dict[Job, Turn] = {}
        self._sequence = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def waiting(self) -> list[Job]:
        """Jobs without an engine now, first in line first."""
        return [job for _, job in sorted(self._waiting, key=lambda item: item[0])]

    @property
    def running(self) -> list[Job]:
        """Jobs on an engine now."""
        return list(self._turns)

    def running_on(self, engine: PooledEngine) -> int:
        """Jobs on that engine now."""
        return sum(turn.engine is engine for turn in self._turns.values())

    def start(self) -> None:
        """Begins to follow the engines and to run jobs."""
        self.pool.start()
        self._ticker = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Cuts all streams. Jobs stay open in the store: the next start deals with them."""
        self._stopping = True
        if self._ticker is not None:
            self._ticker.cancel()
        for turn in list(self._turns.values()):
            turn.end("preempt")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.stop()

    async def prepare(self, job: Job, timeout_s: float) -> None:
        """Turns the messages into tokens and settles how many may be generated.

        Raises:
            ContextLengthError: they do not fit the model's context.
            UnavailableError: no engine appeared within `timeout_s`.
            InvalidInputError: the engine refuses the messages.
        """
        prompt_ids = await self._prompt_ids(job.request, timeout_s)
        n_ctx, wanted = self._offers[job.request.model].n_ctx, job.request.max_tokens
        if len(prompt_ids) + (wanted or 1) > n_ctx:
            raise ContextLengthError(n_ctx, len(prompt_ids), wanted or 0)
        job.prompt_ids = prompt_ids
        job.max_tokens = wanted or n_ctx - len(prompt_ids)

    async def _prompt_ids(self, request: ChatRequest, timeout_s: float) -> list[int]:
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            left_s = max(0.0, deadline_s - self._clock.monotonic_s())
            engine = await self.pool.wait_for_client(request.model, left_s)
            try:
                if engine is None:
                    raise UnavailableError(
                        f"no engine for {request.model} can be reached",
                        remedy="try again in a few seconds",
                    )
                if request.prompt_token_ids:
                    return list(request.prompt_token_ids)
                text = request.prompt
                if text is None:
                    text = await engine.apply_template(request.messages)
                return await engine.tokenize(text, parse_special=True)
            except UnavailableError:
                # The engine may have been restarted a moment ago, at another address.
                if self._clock.monotonic_s() + _RETRY_S >= deadline_s:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def submit(self, job: Job) -> None:
        """Takes responsibility for the job. An asynchronous one is stored when this returns.

        Raises:
            CapacityError: too many jobs are waiting.
            QuotaExceededError, BudgetExceededError: a limit of the tenant's refuses it.
        """
        if len(self._waiting) >= self._max_waiting:
            raise CapacityError(
                f"{len(self._waiting)} requests are waiting already", remedy="try again later"
            )
        row = {
            "id": job.id,
            "kind": job.kind,
            "tenant_id": job.principal.tenant_id,
            "key_id": job.principal.key_id,
            "model": job.request.model,
            "request": job.request.body if job.kind == "async" else None,
            "input_tokens": len(job.prompt_ids or ()),
        }
        await self.desk.reserve(row, self._ask(job), job.created_s, durable=job.kind == "async")
        self.enqueue(job)

    def free_share(self) -> float:
        """The part of the engines' places that nothing runs on or waits for, 0 to 1."""
        ready = [one.state for one in self.pool.engines if one.state.phase == "ready"]
        n_places = sum(state.max_concurrent for state in ready)
        taken = len(self._turns) + len(self._waiting)
        return max(0.0, 1.0 - taken / n_places) if n_places else 0.0

    def _ask(self, job: Job) -> Ask:
        """What the job can cost; a prompt that was not counted yet may fill the context."""
        n_ctx = self._offers[job.request.model].n_ctx
        n_prompt, max_tokens = n_ctx, job.request.max_tokens or n_ctx
        if job.prompt_ids is not None:
            n_prompt, max_tokens = len(job.prompt_ids), job.max_tokens
        return Ask(job.principal, job.request.model, job.request.service_tier, n_prompt, max_tokens)

    def enqueue(self, job: Job) -> None:
        """Puts a stored job in line."""
        if not job.sequence:
            self._sequence += 1
            job.sequence = self._sequence
        heapq.heappush(self._waiting, (job.sequence, job))
        self._pump()

    async def cancel(self, job: Job) -> None:
        """The client is gone: stops the engine and ends the job, billed for what it has."""
        if job.outcome is not None:
            return
        turn = self._turns.get(job)
        if turn is not None:
            turn.end("cancel")
            return
        before = len(self._waiting)
        self._waiting = [item for item in self._waiting if item[1] is not job]
        heapq.heapify(self._waiting)
        if len(self._waiting) < before:
            await self._finish(job, "cancelled")

    # Engines

    def _engine_changed(self, engine: PooledEngine, before: EngineState) -> None:
        state = engine.state
        turns = [turn for turn in self._turns.values() if turn.engine is engine]
        usable = state.phase == "ready" and state.url == before.url
        # A lease with fewer SMs carries fewer requests: the latest ones make room.
        keep = state.max_concurrent if usable else 0
        for turn in sorted(turns, key=lambda turn: turn.job.sequence)[keep:]:
            turn.end("preempt")
        if state.phase != before.phase:
            severity = "warning" if state.phase == "lost" else "info"
            text = f"engine {state.name}: {before.phase} -> {state.phase}"
            if state.phase == "ready":
                text += f" on lease {state.lease_id}: {state.sm_count} SMs, "
                text += f"{state.max_concurrent} requests at once"
            self._event(f"engine.{state.phase}", text, severity)
        self._pump()

    def _free_place(self, job: Job) -> tuple[PooledEngine, int] | None:
        """The best free slot: the one that holds the job's cache, or else the longest unused."""
        now_s = self._clock.monotonic_s()
        for engine in self.pool.engines:
            state = engine.state
            if state.phase != "ready" or state.model != job.request.model or not state.url:
                continue
            used = {turn.slot for turn in self._turns.values() if turn.engine is engine}
            if len(used) >= state.max_concurrent or engine.avoid_until_s > now_s:
                continue
            free = [slot for slot in range(max(state.n_slots, 1)) if slot not in used]
            if not free:
                continue
            if job.place is not None and job.place[0] == state.url and job.place[1] in free:
                return engine, job.place[1]
            kept = {item[1].place for item in self._waiting}
            unkept = [slot for slot in free if (state.url, slot) not in kept]
            return engine, (unkept or free)[0]
        return None

    def _pump(self) -> None:
        """Starts waiting jobs, in order, while there is room."""
        passed = []
        while self._waiting and not self._stopping:
            item = heapq.heappop(self._waiting)
            place = self._free_place(item[1])
            if place is None:
                passed.append(item)
                if len(self._offers) == 1:
                    break
                continue
            self._begin(Turn(item[1], *place))
        for item in passed:
            heapq.heappush(self._waiting, item)

    # Turns

    def _begin(self, turn: Turn) -> None:
        job = turn.job
        job.place = (turn.engine.state.url, turn.slot)
        self._turns[job] = turn
        turn.task = asyncio.create_task(self._run(turn))
        self._tasks.add(turn.task)
        turn.task.add_done_callback(self._tasks.discard)

    async def _run(self, turn: Turn) -> None:
        job = turn.job
        failure: AiranError | None = None
        turn.begun = True
        try:
            if turn.cut is None:
                await self._generate(turn)
        except asyncio.CancelledError:
            if turn.cut is None:
                raise
        except UnavailableError as error:
            failure = self._engine_failed(turn, error)
        except AiranError as error:
            failure = error
        except Exception:
            log.exception("job %s failed", job.id)
            failure = AiranError("the marketplace failed to run this request")
        finally:
            del self._turns[job]
        # From here on no cut can reach the job: it is not on an engine any more.
        self._pump()
        if turn.reason is not None:
            await self._finish(job, "completed", turn.reason)
        elif failure is not None:
            await self._finish(job, "failed", error=failure)
        elif turn.cut == "cancel":
            await self._finish(job, "cancelled")
        else:
            self._preempt(job, turn)

    def _engine_failed(self, turn: Turn, error: UnavailableError) -> AiranError | None:
        """Leaves the engine alone for a moment; an error if the job has had bad luck too often."""
        log.info("job %s lost its engine: %s", turn.job.id, error)
        turn.engine.avoid_until_s = self._clock.monotonic_s() + _AVOID_S
        asyncio.get_running_loop().call_later(_AVOID_S, self._pump)
        turn.job.setbacks += 1
        return error if turn.job.setbacks >= _MAX_SETBACKS else None

    async def _generate(self, turn: Turn) -> None:
        """Runs the job on the engine until it is done; the answer grows in the job."""
        job, client = turn.job, turn.engine.client
        if client is None:
            raise UnavailableError(f"engine {turn.engine.state.name} has no address")
        if job.prompt_ids is None:
            await self.prepare(job, 0.0)
        prompt_ids = job.prompt_ids or []
        resumed = job.preemptions > 0
        job.begin_turn()
        if job.kind == "async":
            now_s = self._clock.now_s()
            self._db.post(self._db.ledger.set_running, job.id, now_s, len(prompt_ids))
        if job.n_left <= 0:
            turn.reason = "length"
            return
        if resumed:
            name = turn.engine.state.name
            text = f"request {job.id} goes on from token {len(job.token_ids)} on {name}"
            self._event("request.resumed", text, job_id=job.id)
        params = job.request.sampling(job.n_left, job.preemptions)
        tokens = [*prompt_ids, *job.token_ids]
        stream = client.generate(tokens, params, slot=turn.slot)
        try:
            async for chunk in stream:
                self._meter.tokens(len(chunk.token_ids), self._clock.monotonic_s())
                stopped = job.record(chunk)
                self._note_progress(job)
                turn.reason = "stop" if stopped else chunk.finish_reason
                if turn.reason is not None:
                    return
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        raise UnavailableError(f"engine {turn.engine.state.name} ended its stream early")

    def _note_progress(self, job: Job) -> None:
        now_s = self._clock.monotonic_s()
        if job.ttft_ms is None and job.token_ids:
            job.ttft_ms = (now_s - job.started_s) * 1e3
            self._meter.first_token(job.ttft_ms)
        if job.kind == "async" and now_s - job.saved_s >= _CHECKPOINT_S:
            job.saved_s = now_s
            self._checkpoint(job, None)

    def _preempt(self, job: Job, turn: Turn) -> None:
        job.pause()
        self._meter.preempted()
        if job.kind == "async":
            self._checkpoint(job, job.preemptions)
        else:
            ledger = self._db.ledger
            self._db.post(ledger.set_preempted, job.id, job.preemptions, self._clock.now_s())
        text = f"request {job.id} paused after {len(job.token_ids)} tokens"
        text += f": engine {turn.engine.state.name} is {turn.engine.state.phase}"
        self._event("request.preempted", text, job_id=job.id)
        heapq.heappush(self._waiting, (job.sequence, job))
        self._pump()

    def _checkpoint(self, job: Job, preemptions: int | None) -> None:
        self._db.post(
            self._db.ledger.checkpoint,
            job.id,
            tuple(job.token_ids),
            job.raw_text,
            preemptions,
            self._clock.now_s(),
        )

    async def _finish(
        self,
        job: Job,
        state: Literal["completed", "failed", "cancelled"],
        reason: FinishReason | None = None,
        error: AiranError | None = None,
    ) -> None:
        """Stores and bills the end of the job; only then does the client learn of it."""
        outcome = Outcome(
            state=state,
            input_tokens=len(job.prompt_ids or ()),
            output_tokens=job.n_output,
            tokens_lost=job.tokens_lost(),
            finish_reason=reason,
            text=job.text if job.kind == "async" else None,
            ttft_ms=job.ttft_ms,
            error_code=None if error is None else _error_code(error),
            error_message=None if error is None else error.message,
        )
        price = self._offers[job.request.model].price
        job.state = state
        try:
            stored = await self.desk.settle(job.id, outcome, price)
            if not stored:
                raise RuntimeError("there is no open row of the job")
        except Exception:
            # The row stays open, so the next start settles it; the client must not be told "done".
            log.exception("job %s could not be stored as %s", job.id, state)
            message = "the result could not be stored; you were not billed"
            outcome = Outcome("failed", 0, 0, error_code="internal_error", error_message=message)
        self._meter.finished(outcome)
        job.outcome = outcome
        if state == "completed" and job.request.response_schema is not None and job.text:
            job.feed.put_nowait(job.text)
        job.feed.put_nowait(outcome)
        job.done.set()

    async def _keep_alive(self) -> None:
        """Lets the clients of waiting jobs know that their connection lives."""
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            for _, job in self._waiting:
                job.feed.put_nowait(WAITING)

    def _event(
        self, kind: str, message: str, severity: str = "info", job_id: str | None = None
    ) -> None:
        now_s = self._clock.now_s()
        self._db.post(self._db.ledger.add_event, kind, message, now_s, severity, job_id)


def _error_code(error: AiranError) -> str:
    if type(error) is AiranError:
        return "internal_error"
    if isinstance(error, ContextLengthError):
        return "context_length_exceeded"
    return "engine_unavailable" if isinstance(error, UnavailableError) else "invalid_request"
