"""Jobs that another gateway on the database runs, as they are seen through the database.

What is asked of them here holds on whoever runs them: a job whose gateway goes is another one's
soon, and a text that is followed goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from airan.core.clock import Clock
from marketplace.completions import parse_request
from marketplace.gateway.errors import ApiError
from marketplace.jobs import StopMatcher
from marketplace.money import Price
from marketplace.store.database import Database
from marketplace.store.ledger import OPEN_STATES, Outcome, unpack_ids

_LOOK_S = 0.2
Row = dict[str, Any]


class Elsewhere:
    """Runs in one event loop."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    def has(self, row: Row) -> bool:
        """Whether the job of that row goes on at another gateway, or will once that is known to be
        gone."""
        return row["state"] in OPEN_STATES and row["gateway_id"] not in (None, self._db.gateway_id)

    async def ended(self, job_id: str, timeout_s: float | None = None) -> Row:
        """The job's row once it goes on nowhere else any more, or the time is over.

        Raises:
            ApiError: 404, there is none of that id.
        """
        until_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        while True:
            row = await self._row(job_id)
            left_s = _LOOK_S if until_s is None else until_s - self._clock.monotonic_s()
            if not self.has(row) or left_s <= 0.0:
                return row
            await asyncio.sleep(min(_LOOK_S, left_s))

    async def cancel(self, job_id: str) -> None:
        """Has the gateway that runs the job end it, if it is another one, and waits until it has.

        One that no gateway runs, because none offers its model any more, is ended here.

        Raises:
            ApiError: 404, there is none of that id.
        """
        await self._row(job_id)
        # One that has just become this gateway's too: it is not known here yet.
        await self._db.call(self._db.ledger.ask_to_cancel, job_id)
        while self.has(await self.ended(job_id, _LOOK_S)):
            row = await self._db.call(self._db.ledger.adopt, job_id)
            if row is not None:
                await self._end(row)

    async def _end(self, row: Row) -> None:
        ledger, now_s = self._db.ledger, self._clock.now_s()
        n_output = len(unpack_ids(row["generated_ids"]))
        ended = Outcome("cancelled", row["input_tokens"], n_output, text=row["text"])
        finish, again = ledger.finish, ledger.finish_again
        # Its price was quoted when it was accepted.
        await self._db.insist(row["tenant_id"], finish, again, row["id"], ended, Price(0, 0), now_s)

    async def texts(self, job_id: str) -> AsyncIterator[str]:
        """The pieces of the job's answer, in the steps in which they are stored, up to its end; an
        answer with a schema comes whole.

        Raises:
            ApiError: 404, there is none of that id.
        """
        row = await self._row(job_id)
        chat = parse_request(json.loads(row["request"]))
        n_sent = 0
        while row["state"] in OPEN_STATES:
            text = "" if chat.response_schema is not None else row["text"] or ""
            # What is stored may end with the beginning of a stop sequence.
            text = StopMatcher(chat.stops).feed(text)
            if text[n_sent:]:
                yield text[n_sent:]
                n_sent = len(text)
            await asyncio.sleep(_LOOK_S)
            row = await self._row(job_id)
        if text := (row["text"] or "")[n_sent:]:
            yield text

    async def _row(self, job_id: str) -> Row:
        row = await self._db.call(self._db.ledger.job, job_id)
        if row is None:
            raise ApiError(404, f"The request {job_id!r} does not exist.")
        return row
