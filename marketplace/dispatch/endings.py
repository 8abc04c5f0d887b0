"""The end of a job: stored and billed before anyone is told of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from airan.core.clock import Clock
from airan.core.errors import AiranError
from marketplace.billing.desk import Desk
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.invoked_turns import Away
from marketplace.dispatch.lengths import Lengths
from marketplace.dispatch.offers import ModelOffer
from marketplace.dispatch.outcomes import EndState, outcome_of
from marketplace.engines.base import FinishReason
from marketplace.jobs import Job
from marketplace.meter import Meter
from marketplace.store.ledger import Outcome

log = logging.getLogger(__name__)


class Endings:
    """Ends jobs, each once, and learns from them how long answers are."""

    def __init__(
        self,
        desk: Desk,
        foresight: Foresight,
        lengths: Lengths,
        away: Away,
        meter: Meter,
        offers: Mapping[str, ModelOffer],
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._foresight = foresight
        self._lengths = lengths
        self._away = away
        self._meter = meter
        self._offers = offers
        self._clock = clock
        self.under_way: set[Job] = set()
        """Jobs whose end is being stored, which takes as long as the database cannot."""

    async def finish(
        self,
        job: Job,
        state: EndState,
        reason: FinishReason | None = None,
        error: AiranError | None = None,
    ) -> None:
        """Stores and bills the end of the job; only then does the client learn of it."""
        outcome = outcome_of(job, state, reason, error)
        price = self._offers[job.model].price
        job.state = state
        self._foresight.ended(job, self._clock.monotonic_s())
        if state == "completed":
            self._lengths.note(job)
        self.under_way.add(job)
        try:
            stored = await self._desk.settle(job.principal.tenant_id, job.id, outcome, price)
            if not stored:
                raise RuntimeError("there is no open row of the job")
        except Exception:
            # The row stays open, so the next start settles it; the client must not be told "done".
            log.exception("job %s could not be stored as %s", job.id, state)
            message = "the result could not be stored; you were not billed"
            outcome = Outcome("failed", 0, 0, error_code="internal_error", error_message=message)
        else:
            self._away.closed(job)
        finally:
            self.under_way.discard(job)
        self._meter.finished(outcome)
        job.outcome = outcome
        if state == "completed" and job.request.response_schema is not None and job.text:
            job.feed.put_nowait(job.text)
        job.feed.put_nowait(outcome)
        job.done.set()
