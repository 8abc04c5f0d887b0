"""Embeddings: made on engines that hold a lease, reserved before and billed as input tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError, InvalidInputError, UnavailableError
from marketplace.billing.desk import Desk
from marketplace.billing.quotes import Ask
from marketplace.dispatch.admission import TierUnreachableError
from marketplace.dispatch.cold import is_cold
from marketplace.dispatch.embedding_line import (
    COLD_START_S,
    EmbeddingLine,
    EmbeddingTurn,
    not_reached,
)
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.gate import Gate
from marketplace.dispatch.offers import ModelOffer
from marketplace.dispatch.queue import Tier
from marketplace.dispatch.waits import Asker
from marketplace.jobs import new_job_id
from marketplace.meter import Meter
from marketplace.pool import EnginePool
from marketplace.principal import Principal
from marketplace.siblings.sibling import TierCounts
from marketplace.store.database import Database
from marketplace.store.ledger import Outcome

_RETRY_S = 0.1
_MAX_WAITING = 256


@dataclass(frozen=True)
class EmbeddingWork:
    """What is to be embedded, by whom and how long it may wait for an engine."""

    principal: Principal
    offer: ModelOffer
    inputs: Sequence[str | Sequence[int]]
    timeout_s: float
    """How long it may wait while no engine has a lease."""
    name: str = ""
    """Work that may be repeated, by a batch: under the same name it is billed once."""
    tier: Tier = "default"

    @property
    def asker(self) -> Asker:
        """Whose it is, and its line."""
        return Asker(self.offer.name, self.tier, self.principal.tenant_id)


class Embedder:
    """Runs in one event loop."""

    def __init__(
        self,
        database: Database,
        pool: EnginePool,
        desk: Desk,
        meter: Meter,
        clock: Clock,
        *,
        foresight: Foresight,
        gate: Gate,
    ) -> None:
        self._db = database
        self._pool = pool
        self._desk = desk
        self._meter = meter
        self._clock = clock
        self._foresight = foresight
        self._gate = gate
        self._lines: dict[str, EmbeddingLine] = {}
        self._n_waiting: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[list[list[float]]]] = set()

    def line(self, model: str) -> EmbeddingLine:
        """The line before that model's engine."""
        line = self._lines.get(model)
        if line is None:
            weights = self._desk.weights
            line = EmbeddingLine(model, self._pool, self._foresight, self._clock, weights)
            self._lines[model] = line
        return line

    def waiting(self, model: str) -> int:
        """Requests for that model's embeddings that wait."""
        return len(self._lines.get(model, ()))

    def waiting_by_tier(self) -> dict[str, TierCounts]:
        """The same of all models that some wait for."""
        return {model: line.waiting_by_tier for model, line in self._lines.items() if len(line)}

    def changed(self, model: str) -> None:
        """An engine of that model came, went or is on another lease."""
        if model in self._lines:
            self._lines[model].changed()

    async def stop(self) -> None:
        """Breaks off what is going on; nothing of that is billed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._lines.values():
            await line.stop()

    async def embed(self, work: EmbeddingWork) -> tuple[list[list[float]], int]:
        """The embeddings and the tokens they are billed for.

        Raises:
            InvalidInputError: an input is too long, or the model makes no embeddings.
            UnavailableError: no engine of the model had a lease in that time.
            TierUnreachableError: the first could not be made in the tier's time.
            CapacityError: too many wait, or a limit of the tenant's refuses it.
        """
        key = (work.principal.tenant_id, work.offer.name)
        if self._n_waiting.get(key, 0) >= _MAX_WAITING:
            raise CapacityError(
                f"{_MAX_WAITING} requests for embeddings wait already",
                remedy="send fewer at once, or more inputs in each",
            )
        self._n_waiting[key] = self._n_waiting.get(key, 0) + 1
        try:
            return await self._embed(work)
        finally:
            self._n_waiting[key] -= 1
            if not self._n_waiting[key]:
                del self._n_waiting[key]

    async def _embed(self, work: EmbeddingWork) -> tuple[list[list[float]], int]:
        started_s = self._clock.monotonic_s()
        deadline_s = started_s + self._patience_s(work)
        inputs = await self._tokens(work, deadline_s)
        n_tokens = sum(map(len, inputs))
        line = self.line(work.offer.name)
        turn = EmbeddingTurn(work.asker, inputs, work.timeout_s, started_s)
        with line.entering(turn):
            await self._admit(work, line, turn)
            job_id = await self._reserve(work, n_tokens)
            line.join(turn)
        task = asyncio.create_task(self._run(work, line, turn, job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task), n_tokens
        except asyncio.CancelledError:
            # The client is gone, or we end; the task settles it.
            task.cancel()
            raise

    async def _admit(self, work: EmbeddingWork, line: EmbeddingLine, turn: EmbeddingTurn) -> None:
        """Refuses a request whose tier cannot be kept, by what was measured until now."""
        now_s, waits = self._clock.monotonic_s(), self._foresight.waits
        turn.predicted_slot_s = line.slot_s(turn)
        waits.asked(turn.asker, turn.predicted_slot_s, now_s)
        predicted = line.predict(turn)
        if predicted is not None:
            try:
                self._gate.check(turn.asker, predicted, now_s - turn.started_s)
            except TierUnreachableError:
                self._meter.refused(work.tier)
                await self._desk.show_limits(work.principal)
                raise
        waits.accepted(turn.asker, turn.predicted_slot_s, now_s)

    async def _tokens(self, work: EmbeddingWork, deadline_s: float) -> list[list[int]]:
        n_ctx, found = work.offer.n_ctx, []
        for number, item in enumerate(work.inputs):
            if isinstance(item, str):
                ids = await self._tokens_of(work.offer.name, item, deadline_s)
            else:
                ids = list(item)
            if not 0 < len(ids) <= n_ctx:
                raise InvalidInputError(
                    "input",
                    f"number {number} has {len(ids)} tokens; this model takes 1 to {n_ctx}",
                    remedy="split it into shorter ones",
                )
            found.append(ids)
        return found

    async def _tokens_of(self, model: str, text: str, deadline_s: float) -> list[int]:
        while True:
            left_s = max(0.0, deadline_s - self._clock.monotonic_s())
            engine = await self._pool.wait_for_client(model, left_s)
            if engine is None:
                raise not_reached(model)
            try:
                return await engine.tokenize(text, parse_special=False, add_special=True)
            except UnavailableError:
                await self._pause(model, deadline_s)

    async def _reserve(self, work: EmbeddingWork, n_tokens: int) -> str:
        """Stores the job and sets its price aside; its id, empty if it was billed before."""
        job_id = await self._job_id(work)
        if not job_id:
            return ""
        who, model = work.principal, work.offer.name
        row = {
            "id": job_id,
            "kind": "sync",
            "tenant_id": who.tenant_id,
            "key_id": who.key_id,
            "model": model,
            "request": None,
            "input_tokens": n_tokens,
            "gateway_id": self._db.gateway_id,
        }
        ask = Ask(who, model, work.tier, n_tokens, 0)
        try:
            await self._desk.reserve(row, ask, self._clock.now_s(), durable=bool(work.name))
        except asyncio.CancelledError:
            self._desk.withdraw(who.tenant_id, job_id)
            raise
        return job_id

    async def _job_id(self, work: EmbeddingWork) -> str:
        if not work.name:
            return new_job_id()
        for attempt in range(1_000):
            job_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{work.name}/{attempt}"))
            row = await self._db.call(self._db.ledger.job, job_id)
            if row is None:
                return job_id
            if row["state"] == "completed":
                return ""
        raise UnavailableError(f"{work.name} failed too often")

    async def _run(
        self, work: EmbeddingWork, line: EmbeddingLine, turn: EmbeddingTurn, job_id: str
    ) -> list[list[float]]:
        """Waits until they are made and settles the job, whatever happens."""
        n_tokens = sum(map(len, turn.inputs))
        try:
            vectors = await line.wait(turn)
        except asyncio.CancelledError:
            await self._settle(work, job_id, Outcome("cancelled", n_tokens, 0))
            raise
        except AiranError as error:
            text = error.message
            failed = Outcome("failed", 0, 0, error_code="embedding_failed", error_message=text)
            await self._settle(work, job_id, failed)
            raise
        await self._settle(work, job_id, Outcome("completed", n_tokens, 0, finish_reason="stop"))
        return vectors

    async def _settle(self, work: EmbeddingWork, job_id: str, outcome: Outcome) -> None:
        if job_id:
            whose = work.principal.tenant_id
            await self._desk.settle(whose, job_id, outcome, work.offer.price)
            self._meter.finished(outcome)

    def _patience_s(self, work: EmbeddingWork) -> float:
        cold = is_cold(self._pool.states_of(work.offer.name))
        return max(work.timeout_s, COLD_START_S) if cold else work.timeout_s

    async def _pause(self, model: str, deadline_s: float) -> None:
        if self._clock.monotonic_s() + _RETRY_S >= deadline_s:
            raise not_reached(model)
        await asyncio.sleep(_RETRY_S)
