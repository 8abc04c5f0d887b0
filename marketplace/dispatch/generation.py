"""An answer is generated: what an engine says of a turn grows in its job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from airan.core.clock import Clock
from airan.core.errors import UnavailableError
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.invoked_turns import comes_whole
from marketplace.dispatch.journal import Journal
from marketplace.dispatch.overflow import Overflow, take_home
from marketplace.dispatch.text_turns import answer_in_text
from marketplace.dispatch.turns import Turn
from marketplace.engines.base import Engine
from marketplace.engines.text import Resume
from marketplace.jobs import Job
from marketplace.meter import Meter

_CHECKPOINT_S = 1.0


class Generation:
    """Runs turns on their engines.

    `prepare` turns a job's messages into tokens, where that could not be done before.
    """

    def __init__(
        self,
        foresight: Foresight,
        journal: Journal,
        meter: Meter,
        clock: Clock,
        overflow: Overflow,
        prepare: Callable[[Job, float], Awaitable[None]],
    ) -> None:
        self._foresight = foresight
        self._journal = journal
        self._meter = meter
        self._clock = clock
        self._overflow = overflow
        self._prepare = prepare

    async def run(self, turn: Turn) -> None:
        """Runs the job on the engine until it is done; the answer grows in the job."""
        job, client = turn.job, turn.engine.client
        if client is None and turn.engine.external is None:
            raise UnavailableError(f"engine {turn.engine.state.name} has no address")
        from_peer = client is not None and job.tally is not None
        if client is not None and from_peer:
            await take_home(job, client)
        if job.prompt_ids is None and job.tally is None:
            await self._prepare(job, 0.0)
        job.begin_turn()
        if job.kind == "async":
            self._journal.running(job)
        if client is None:
            if not comes_whole(turn):
                self._foresight.begin(turn, self._clock.monotonic_s())
            at_peer = turn.engine.peer is not None
            answer = self._overflow.away.answer if at_peer else answer_in_text
            await answer(turn, lambda n_pieces: self._came(turn, n_pieces))
        elif job.n_left <= 0:
            turn.reason = "length"
        else:
            if job.preemptions:
                self._journal.resumed(job, turn.engine.state.name)
                exact: Resume = "text" if from_peer else "tokens"
                job.resumed = exact if job.token_ids else "none"
            await self._in_tokens(turn, client)
        if turn.reason is None:
            raise UnavailableError(f"engine {turn.engine.state.name} ended its stream early")

    async def _in_tokens(self, turn: Turn, client: Engine) -> None:
        job = turn.job
        params = job.request.sampling(job.n_left, job.preemptions)
        tokens = [*(job.prompt_ids or ()), *job.token_ids]
        self._foresight.begin(turn, self._clock.monotonic_s())
        stream = client.generate(tokens, params, slot=turn.slot, adapter=job.adapter_id)
        try:
            async for chunk in stream:
                stopped = job.record(chunk)
                self._came(turn, len(chunk.token_ids))
                turn.reason = "stop" if stopped else chunk.finish_reason
                if turn.reason is not None:
                    return
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _came(self, turn: Turn, n_tokens: int) -> None:
        """The engine gave so many tokens, or pieces of a text."""
        job, now_s = turn.job, self._clock.monotonic_s()
        self._meter.tokens(n_tokens, now_s)
        if n_tokens:
            self._foresight.tokens(turn, n_tokens, now_s)
        if job.ttft_ms is None and n_tokens:
            job.ttft_ms = (now_s - job.started_s) * 1e3
            self._foresight.came(job, job.ttft_ms / 1e3)
            self._meter.first_token(job.ttft_ms, job.request.service_tier, job.predicted_ttft_s)
        if job.kind == "async" and now_s - job.saved_s >= _CHECKPOINT_S:
            job.saved_s = now_s
            self._journal.checkpoint(job)
