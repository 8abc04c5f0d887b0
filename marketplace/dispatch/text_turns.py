"""Jobs on engines that speak text and have no token ids: external ones."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from airan.core.errors import CapacityError, InvalidInputError, UnavailableError
from marketplace.dispatch.offers import ContextLengthError
from marketplace.dispatch.turns import Turn
from marketplace.engines.calls import CALL
from marketplace.engines.external_model import ExternalModel
from marketplace.jobs import Job
from marketplace.tally import Tally

log = logging.getLogger(__name__)


def prepare_text(job: Job, model: ExternalModel) -> None:
    """Settles how many tokens may be generated; the prompt's are known only afterwards.

    Raises:
        ContextLengthError: no tokenizer is needed to see that they do not fit.
        InvalidInputError: a parameter that external engines do not have.
    """
    request = job.request
    where = f"is not supported by {model.name!r}, which runs on an external engine"
    if request.n_logprobs is not None:
        raise InvalidInputError("logprobs", where)
    if request.prompt_token_ids:
        raise InvalidInputError("prompt", f"as token ids {where}")
    if request.tools is not None:
        # The server holds its calls to their schemas itself, and streams them.
        request = job.request = replace(request, response_schema=request.tools.answer_schema)
    tally = Tally(request, model.n_ctx)
    n_answer = request.max_tokens or 1
    if tally.least_input + n_answer > model.n_ctx:
        raise ContextLengthError(model.n_ctx, tally.least_input, request.max_tokens or 0)
    job.tally = tally
    job.max_tokens = request.max_tokens or model.n_ctx - tally.least_input


async def answer_in_text(turn: Turn, note: Callable[[int], None]) -> None:
    """Runs the job on the engine until it is done; `note` is told of each piece of the answer.

    Raises:
        UnavailableError, CapacityError: the engine broke off, or takes nothing just now.
        InvalidInputError: it refuses the request.
    """
    job, watch = turn.job, turn.engine.external
    if watch is None or job.tally is None:
        raise UnavailableError(f"engine {turn.engine.state.name} speaks no text")
    request, tally = job.request, job.tally
    tally.begin_turn()
    if job.n_left <= 0:
        turn.reason = "length"
        return
    n_left = job.n_left
    # Where the client sets no limit the engine fills its context, whose size it knows itself.
    # A peer is not to work, and bill, beyond what we would.
    asked = n_left if request.max_tokens or turn.engine.peer is not None else 0
    params = replace(request.sampling(asked, job.preemptions), stops=request.stops)
    if request.tools is not None:
        params = replace(params, tools=request.tools.members())
    prompt = request.messages if request.prompt is None else request.prompt
    headers = None if job.journey is None else job.journey.headers
    stream = watch.engine.answer(prompt, params, answered=job.raw_text, headers=headers)
    async with contextlib.aclosing(stream) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            stopped = job.record_text(chunk)
            if chunk.usage is not None and not tally.report(chunk.usage, n_left):
                text = "request %s: %s reports a usage that cannot be: %s"
                log.warning(text, job.id, turn.engine.state.name, chunk.usage)
            note(1 if chunk.text else 0)
            turn.reason = "stop" if stopped else chunk.finish_reason
            if turn.reason is not None:
                return


def why_it_ends(turn: Turn, error: UnavailableError | CapacityError) -> UnavailableError | None:
    """After a broken turn: None where the job may be tried again, there or elsewhere.

    The client learns neither where the engine is nor what it said.
    """
    job, watch = turn.job, turn.engine.external
    if watch is None:
        return None
    watch.suspect()
    log.warning("request %s on %s: %s", job.id, turn.engine.state.name, error)
    lasts = watch.engine.resume == "none" or CALL in job.raw_text
    if job.raw_text and lasts and job.request.response_schema is None:
        return UnavailableError(
            f"the engine for {job.request.model} broke off, and cannot go on in the middle of an "
            "answer; it was not billed"
        )
    return None


def not_served(model: str) -> UnavailableError:
    """What a client is told whose model has no engine that answers."""
    return UnavailableError(
        f"the engine for {model} does not answer", remedy="try again in a few seconds"
    )
