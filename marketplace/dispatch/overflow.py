"""Work that cannot be done here in time goes to peers, where its tenant's data may go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError
from marketplace.dispatch.admission import TierUnreachableError
from marketplace.dispatch.common import CommonEngines
from marketplace.dispatch.foresight import Foresight
from marketplace.dispatch.invoked_turns import Away
from marketplace.dispatch.places import free_places
from marketplace.dispatch.turns import Turn, Turns
from marketplace.engines.base import Engine
from marketplace.federation.choice import Way, ways_out
from marketplace.federation.peers import Federation, Peer
from marketplace.federation.policy import DataPolicy, parse_policy
from marketplace.federation.travel import Journey, Sending, headers_out
from marketplace.jobs import Job
from marketplace.pool import PooledEngine
from marketplace.store.database import Database
from marketplace.store.peering import PeerCost
from marketplace.tally import Tally

log = logging.getLogger(__name__)

_AVOID_S = 5.0
_GUEST_RETRY_S = 5.0


class Overflow:
    """Finds peers for jobs, keeps their number there, and notes what they cost."""

    def __init__(
        self,
        federation: Federation,
        database: Database,
        turns: Turns,
        foresight: Foresight,
        clock: Clock,
    ) -> None:
        self._federation = federation
        self._db = database
        self._turns = turns
        self._foresight = foresight
        self._clock = clock
        self.engines: list[PooledEngine] = []
        """All of the pool; the pool sets it."""
        self._claims: dict[Job, PooledEngine] = {}
        self.away = Away(database, clock)

    async def find(self, job: Job, now_s: float) -> bool:
        """Has the job go to a peer, if there is one with room that it may go to.

        Its tenant's policy is read now, so that a change holds for the next request.
        """
        origin, federation = job.origin, self._federation
        if origin is None or not federation.peers or not _can_go(job):
            return False
        # A peer that hides by which way a request came could have it run in circles.
        if not origin.may_go_on(federation.site, federation.max_hops) or (
            job.principal.is_peer and not origin.via
        ):
            return False
        tenants_own = await self._db.call(self._db.peering.policy_of, job.principal.tenant_id)
        policy = tenants_own.narrowed(origin.narrows)
        found = self._eligible(job, policy, now_s)
        if not found:
            return False
        via = ",".join((*origin.via, federation.site))
        headers = headers_out(via, str(policy), federation.site, job.id)
        job.journey = Journey([engine.state.name for engine in found[1:]], headers)
        self._claims[job] = found[0]
        return True

    def next(self, job: Job, now_s: float) -> PooledEngine | None:
        """The peer the job goes to now; None: it is to be done here."""
        engine = self._claims.pop(job, None)
        while engine is None and job.journey is not None and job.journey.routes:
            name = job.journey.routes.pop(0)
            engine = next(one for one in self.engines if one.state.name == name)
            if not self._has_room(engine, now_s):
                engine = None
        if engine is not None and engine.external is not None:
            job.tally = Tally(job.request, engine.external.model.n_ctx)
        return engine

    async def take_up(self, job: Job, sending: Sending) -> PooledEngine | None:
        """The peer to ask again for a job that an earlier gateway sent there; None: it is to be
        done here, and what the peer may have done of it is noted."""
        name = sending.peer
        found = [
            (one, one.peer)
            for one in self.engines
            if one.peer is not None
            and one.peer.name == name
            and one.external is not None
            and one.external.model.name == one.peer.external_name(job.request.model)
        ]
        if not found:
            self.away.lose(job.principal.tenant_id, sending, None)
            return None
        ((engine, peer),) = found
        again = sending.remote_id is not None or await self._may_still_go(job, peer, sending)
        if sending.way == "stream" or not again:
            self.away.lose(job.principal.tenant_id, sending, self._most(job, peer))
            return None
        job.tally = Tally(job.request, peer.n_ctx)
        headers = headers_out(sending.via, sending.policy, self._federation.site, job.id)
        job.journey = Journey([], headers, sending)
        return engine

    async def _may_still_go(self, job: Job, peer: Peer, sending: Sending) -> bool:
        """Whether the prompt may be sent to the peer once more, by the policy of now."""
        tenants_own = await self._db.call(self._db.peering.policy_of, job.principal.tenant_id)
        policy = tenants_own.narrowed(parse_policy(sending.policy))
        return policy.allows(peer.region, peer.promises)

    def drop(self, job: Job) -> None:
        """The job goes nowhere: it was not accepted."""
        self._claims.pop(job, None)

    def broke(self, turn: Turn, error: AiranError, now_s: float) -> None:
        """A peer did not do what it was asked; whatever it said, the job may go on elsewhere."""
        log.warning("request %s at %s: %s", turn.job.id, turn.engine.state.name, error)
        turn.engine.avoid_until_s = now_s + _AVOID_S
        if turn.engine.external is not None and not isinstance(error, CapacityError):
            turn.engine.external.suspect()

    def ended(self, turn: Turn) -> None:
        """A peer works on the job no more: notes what it costs, whether it finished or not."""
        job, peer, tally = turn.job, turn.engine.peer, turn.job.tally
        if peer is None or tally is None:
            return
        cost = None
        if tally.n_output or turn.reason is not None:
            cost = self._cost(job, peer, tally.n_input, tally.n_output)
        self.away.ended(turn, cost, self._most(job, peer))

    def account_for(self, sending: Sending, row: dict[str, Any]) -> None:
        """Closes what an earlier gateway left open of a job that has ended; `row`: the job's."""
        if row["state"] == "completed":
            self.away.close(row["tenant_id"], sending)
            return
        peer = next((one for one in self._federation.peers if one.name == sending.peer), None)
        most = None
        if peer is not None:
            n_input = row["input_tokens"]
            n_output = max(0, peer.n_ctx - n_input)
            most = self._priced(sending.job_id, row["model"], peer, (n_input, n_output))
        self.away.lose(row["tenant_id"], sending, most)

    def _most(self, job: Job, peer: Peer) -> PeerCost:
        return self._cost(job, peer, job.n_input, job.max_tokens)

    def _cost(self, job: Job, peer: Peer, n_input: int, n_output: int) -> PeerCost:
        return self._priced(job.id, job.request.model, peer, (n_input, n_output))

    def _priced(self, job_id: str, model: str, peer: Peer, tokens: tuple[int, int]) -> PeerCost:
        amount = peer.price.amount_micro_usd(*tokens)
        return PeerCost(job_id, peer.name, model, *tokens, amount, self._clock.now_s())

    def _eligible(self, job: Job, policy: DataPolicy, now_s: float) -> list[PooledEngine]:
        """Peers that the job may go to, the cheapest first."""
        work = self._foresight.work(job)
        n_most = len(job.prompt_ids or ()) + job.max_tokens
        ways: list[Way[PooledEngine]] = []
        for engine in self.engines:
            peer, watch = engine.peer, engine.external
            if peer is None or watch is None or job.origin is None or peer.name in job.origin.via:
                continue
            if watch.model.name != peer.external_name(job.request.model):
                continue
            speed = self._foresight.speeds.of(engine.state)
            prefill_s = (speed and speed.prefill_s(work.n_prompt)) or 0.0
            room = self._has_room(engine, now_s)
            ways.append(
                Way(engine, peer.region, peer.promises, peer.n_ctx, peer.price, prefill_s, room)
            )
        return ways_out(policy, work.n_prompt, work.n_answer, n_most, ways)

    def _has_room(self, engine: PooledEngine, now_s: float) -> bool:
        peer = engine.peer
        if peer is None or engine.state.phase != "ready" or engine.avoid_until_s > now_s:
            return False
        theirs = [one for one in self.engines if one.peer is peer]
        n_used = sum(self._turns.count(one) for one in theirs)
        n_used += sum(claimed.peer is peer for claimed in self._claims.values())
        return n_used < peer.max_concurrent


async def take_home(job: Job, engine: Engine) -> None:
    """A peer's answer that broke off becomes tokens, after which our engine goes on."""
    text = job.raw_text
    job.token_ids = await engine.tokenize(text, parse_special=False) if text else []
    job.tally = None


def check_guest(
    job: Job, engines: Sequence[PooledEngine], common: CommonEngines, n_before: int
) -> None:
    """Lets a peer's job in while there is compute that nobody of ours wants.

    `n_before`: jobs for the same model that wait or are being accepted.

    Raises:
        TierUnreachableError: there is none.
    """
    if not job.principal.is_peer or free_places(job.model, engines, common) > n_before:
        return
    raise TierUnreachableError(
        "peers' work runs only while compute is free, and none is",
        remedy="try again after the time in Retry-After",
        retry_after_s=_GUEST_RETRY_S,
    )


def _can_go(job: Job) -> bool:
    request = job.request
    plain = request.n_logprobs is None and not request.prompt_token_ids and request.tools is None
    # A peer has not got the adapter, whatever it calls its models.
    own = job.adapter is not None
    return plain and not own and job.prompt_ids is not None
