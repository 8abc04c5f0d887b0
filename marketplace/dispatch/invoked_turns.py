"""Jobs at peers: what is kept of them, so that a gateway's end hides nothing of what they did.

What is known of a job at a peer, at any moment, is its `Sending` in the store. A gateway that ends
in the middle leaves it open. Jobs that outlive their connection are stored so before they leave,
and the next gateway goes on from there: asks for them until they are heard of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from airan.core.clock import Clock
from airan.core.errors import AiranError, UnavailableError
from marketplace.dispatch.text_turns import answer_in_text
from marketplace.dispatch.turns import Turn
from marketplace.engines.invoked import InvokedEngine, Standing, UnheardError, asked_until_heard
from marketplace.engines.text import TextChunk, Usage
from marketplace.federation.travel import POLICY, VIA, Sending, SendingState, SendingWay
from marketplace.jobs import Job
from marketplace.store.database import Database
from marketplace.store.peering import PeerCost

log = logging.getLogger(__name__)


class Away:
    """Keeps the account of jobs while they are at peers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    async def answer(self, turn: Turn, note: Callable[[int], None]) -> None:
        """Has the peer do the job; `note` is told how many tokens, or pieces of text, came.

        Raises:
            UnheardError: nobody knows what became of it.
            UnavailableError, CapacityError, InvalidInputError: the peer did not do it.
        """
        job, peer, watch = turn.job, turn.engine.peer, turn.engine.external
        if peer is None or watch is None or job.journey is None or job.tally is None:
            raise UnavailableError(f"engine {turn.engine.state.name} is no peer")
        journey, sending = job.journey, job.journey.sending
        if sending is None:
            headers, way = journey.headers, way_of(job, is_site=peer.is_site)
            sending = Sending(
                job.id, peer.name, way, headers[VIA], headers[POLICY], self._clock.now_s()
            )
            journey.sending = sending
            begin = self._db.sendings.begin
            if job.kind == "sync":
                # Its client waits, and it is not asked for again: what counts is to know of it.
                self._db.insist_later(job.principal.tenant_id, begin, begin, sending)
            else:
                await self._db.call(begin, sending)
        if sending.way == "stream":
            await answer_in_text(turn, note)
            return
        # From here on it may be there; only an answer says whether it is.
        journey.unheard = True
        try:
            found = await self._result(job, sending, watch.invoked, watch.model.patience_s)
        except asyncio.CancelledError:
            if turn.cut == "cancel":
                await self._cancel(job, watch.invoked)
            raise
        except Exception as error:
            # Only an answer says that nothing is done there; a failure of ours does not.
            said = isinstance(error, AiranError) and not isinstance(error, UnheardError)
            journey.unheard = not said
            raise
        journey.unheard = False
        _take(turn, found)
        note(job.n_output)

    def stays(self, turn: Turn) -> bool:
        """Whether we are being stopped while the job is at a peer, where it goes on: the next
        start asks for it."""
        journey = turn.job.journey
        return turn.cut == "preempt" and journey is not None and journey.unheard

    def ended(self, turn: Turn, cost: PeerCost | None, most: PeerCost) -> None:
        """The peer works on the job no more, or is not asked for it again.

        `cost`: by what came from it, `most`: the most that it can be. Written before whatever is
        stored of the job afterwards. An answered one stays open until the job itself has ended: a
        gateway that ends in between asks for the same answer again.
        """
        journey = turn.job.journey
        sending = None if journey is None else journey.sending
        if journey is None or sending is None or self.stays(turn):
            return
        whose = turn.job.principal.tenant_id
        if turn.reason is not None:
            if cost is not None:
                note = self._db.peering.note_cost
                self._db.insist_later(whose, note, note, cost)
            return
        state: SendingState = "refused" if cost is None else "broken"
        if journey.unheard:
            state, cost = "unheard", replace(most, heard=False)
        elif turn.cut == "cancel":
            state = "cancelled"
        journey.sending, journey.unheard = None, False
        self._end(whose, sending, state, cost)

    def closed(self, job: Job) -> None:
        """The job has ended, and that is stored."""
        if job.journey is not None and job.journey.sending is not None:
            self.close(job.principal.tenant_id, job.journey.sending)

    def close(self, tenant_id: str, sending: Sending) -> None:
        """It was answered, and what it cost is kept."""
        self._end(tenant_id, sending, "answered", None)

    def lose(self, tenant_id: str, sending: Sending, most: PeerCost | None) -> None:
        """What an earlier gateway sent is not asked for: the peer may have done it."""
        log.warning("request %s at %s: not heard of again", sending.job_id, sending.peer)
        cost = None if most is None else replace(most, heard=False)
        self._end(tenant_id, sending, "unheard", cost)

    def _end(
        self, tenant_id: str, sending: Sending, state: SendingState, cost: PeerCost | None
    ) -> None:
        end = self._db.sendings.end
        self._db.insist_later(tenant_id, end, end, sending.job_id, sending.peer, state, cost)

    async def _result(
        self, job: Job, sending: Sending, engine: InvokedEngine, patience_s: float
    ) -> Standing:
        assert job.journey is not None
        remote_id = sending.remote_id
        if remote_id is None:
            request = job.request
            # The same whenever it is asked: whether it was paused here before is of no matter.
            params = replace(request.sampling(job.n_left, 0), stops=request.stops)
            body, headers = engine.body(request.messages, params), job.journey.headers
            found = await asked_until_heard(lambda: engine.begin(body, headers), patience_s)
            if found.reason is not None:
                return found
            remote_id = found.remote_id
            job.journey.sending = replace(sending, remote_id=remote_id)
            accepted = self._db.sendings.accepted
            whose = job.principal.tenant_id
            self._db.insist_later(whose, accepted, accepted, job.id, sending.peer, remote_id)
        asked = remote_id
        while True:
            found = await asked_until_heard(lambda: engine.look(asked), patience_s)
            if found.reason is not None:
                return found

    async def _cancel(self, job: Job, engine: InvokedEngine) -> None:
        """The job's client wants it no more: ends it at the peer, and takes its account."""
        journey = job.journey
        sending = None if journey is None else journey.sending
        if journey is None or sending is None or sending.remote_id is None or job.tally is None:
            return
        usage = await engine.cancel(sending.remote_id)
        if usage is not None:
            journey.unheard = False
            job.tally.begin_turn()
            _report(job, usage)


def way_of(job: Job, *, is_site: bool) -> SendingWay:
    """How a job goes to a peer. A client that waits wants a stream; invocations are chats, and a
    raw text is none."""
    kept = is_site and job.kind == "async" and job.request.prompt is None
    return "invocation" if kept else "stream"


def comes_whole(turn: Turn) -> bool:
    """Whether the engine gives the answer all at once."""
    peer = turn.engine.peer
    return peer is not None and way_of(turn.job, is_site=peer.is_site) == "invocation"


def _take(turn: Turn, found: Standing) -> None:
    """The whole answer at once."""
    job = turn.job
    assert job.tally is not None
    job.tally.begin_turn()
    if found.text:
        job.record_text(TextChunk(found.text))
    stopped = job.record_text(found.chunk())
    if found.usage is not None:
        _report(job, found.usage)
    turn.reason = "stop" if stopped else found.reason


def _report(job: Job, usage: Usage) -> None:
    assert job.tally is not None
    if not job.tally.report(usage, job.max_tokens):
        log.warning("request %s: its peer reports a usage that cannot be: %s", job.id, usage)
