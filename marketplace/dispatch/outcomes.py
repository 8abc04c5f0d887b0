"""How a job ended, as it is stored and billed."""

from __future__ import annotations

from typing import Literal

from airan.core.errors import AiranError, CapacityError, UnavailableError
from marketplace.dispatch.offers import ContextLengthError
from marketplace.engines.base import FinishReason
from marketplace.jobs import Job
from marketplace.store.ledger import Outcome

EndState = Literal["completed", "failed", "cancelled"]


def outcome_of(
    job: Job, state: EndState, reason: FinishReason | None, error: AiranError | None
) -> Outcome:
    """What a job that ends now has come to."""
    return Outcome(
        state=state,
        input_tokens=job.n_input,
        output_tokens=job.n_output,
        tokens_lost=job.tokens_lost(),
        finish_reason=reason,
        text=job.text if job.kind == "async" else None,
        ttft_ms=job.ttft_ms,
        error_code=None if error is None else _error_code(error),
        error_message=None if error is None else error.message,
    )


def _error_code(error: AiranError) -> str:
    if type(error) is AiranError:
        return "internal_error"
    if isinstance(error, ContextLengthError):
        return "context_length_exceeded"
    lost = isinstance(error, UnavailableError | CapacityError)
    return "engine_unavailable" if lost else "invalid_request"
