"""A request becomes a job that an engine can work on: its tokens, and how many may be made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from airan.core.clock import Clock
from marketplace.dispatch.admission import TierUnreachableError
from marketplace.dispatch.cold import is_cold
from marketplace.dispatch.gate import Gate
from marketplace.dispatch.offers import ContextLengthError, ModelOffer
from marketplace.dispatch.prompts import prompt_tokens
from marketplace.dispatch.text_turns import not_served, prepare_text
from marketplace.jobs import Job
from marketplace.pool import EnginePool

_COLD_START_S = 60.0
"""How long a client's request waits, at least, until a cold engine has loaded its model."""


class Preparation:
    """Asks an engine of the model. `refused` hears of jobs that a cold one cannot serve in time."""

    def __init__(
        self,
        offers: Mapping[str, ModelOffer],
        pool: EnginePool,
        gate: Gate,
        clock: Clock,
        refused: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._offers = offers
        self._pool = pool
        self._gate = gate
        self._clock = clock
        self._refused = refused

    async def run(self, job: Job, timeout_s: float) -> None:
        """Turns the messages into tokens, for engines that have them, and settles how many may be
        generated.

        Raises:
            ContextLengthError: they do not fit the model's context.
            UnavailableError: no engine appeared within `timeout_s`.
            TierUnreachableError: the engine is cold and will not be back in the tier's time.
            InvalidInputError: the engine refuses the messages.
        """
        self._offers[job.model].check_chat()
        external = self._pool.external(job.model)
        if external is not None:
            prepare_text(job, external)
            if not await self._pool.is_served(external.name, timeout_s):
                raise not_served(external.name)
            return
        if job.kind == "sync" and is_cold(self._pool.states_of(job.model)):
            self._pool.want(job.model)
            try:
                self._gate.admit_cold(job)
            except TierUnreachableError:
                await self._refused(job)
                raise
            timeout_s = max(timeout_s, _COLD_START_S)
        prompt_ids = await prompt_tokens(self._pool, self._clock, job, timeout_s)
        n_ctx, wanted = self._offers[job.model].n_ctx, job.request.max_tokens
        if len(prompt_ids) + (wanted or 1) > n_ctx:
            raise ContextLengthError(n_ctx, len(prompt_ids), wanted or 0)
        job.prompt_ids = prompt_ids
        job.max_tokens = wanted or n_ctx - len(prompt_ids)
