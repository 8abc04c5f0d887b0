"""Jobs at peers: what was sent, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.federation.travel import Sending, SendingState
from marketplace.store.connect import reading, writing
from marketplace.store.peering import PeerCost, keep_cost
from marketplace.store.presence import runs
from marketplace.store.schema import jobs, peer_sendings


class Sendings:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: whose jobs these are; others' are not touched. None: everybody's."""
        self._engine = engine
        self._gateway_id = gateway_id

    def begin(self, sending: Sending) -> None:
        """Keeps what is about to be sent. Idempotent: the first one counts.

        Raises:
            UnavailableError: the job is another gateway's by now.
        """
        known = sa.select(peer_sendings.c.job_id).where(*_mine(sending.job_id, sending.peer))
        with writing(self._engine) as db:
            if not runs(db, jobs, self._gateway_id, sending.job_id):
                text = f"request {sending.job_id} is another gateway's"
                raise UnavailableError(text, remedy="ask for it there")
            if db.execute(known).first() is None:
                db.execute(sa.insert(peer_sendings).values(asdict(sending)))

    def accepted(self, job_id: str, peer: str, remote_id: str) -> None:
        """The peer has it, and calls it so."""
        query = sa.update(peer_sendings).where(*_mine(job_id, peer))
        with writing(self._engine) as db:
            if runs(db, jobs, self._gateway_id, job_id):
                db.execute(query.values(remote_id=remote_id))

    def end(self, job_id: str, peer: str, state: SendingState, cost: PeerCost | None) -> None:
        """What became of it, and what it cost. Idempotent: the first end counts."""
        query = sa.update(peer_sendings).where(
            *_mine(job_id, peer), peer_sendings.c.state == "open"
        )
        with writing(self._engine) as db:
            if not runs(db, jobs, self._gateway_id, job_id):
                return
            db.execute(query.values(state=state))
            if cost is not None:
                keep_cost(db, cost)

    def open(self, job_ids: Sequence[str]) -> dict[str, Sending]:
        """By job, of these: what was sent and not heard of when its gateway ended."""
        query = sa.select(peer_sendings).where(peer_sendings.c.state == "open")
        query = query.where(peer_sendings.c.job_id.in_(job_ids))
        with reading(self._engine) as db:
            return {
                row["job_id"]: Sending(**row)
                for row in db.execute(query.order_by(peer_sendings.c.created_s)).mappings()
            }


def _mine(job_id: str, peer: str) -> tuple[sa.ColumnElement[bool], ...]:
    return peer_sendings.c.job_id == job_id, peer_sendings.c.peer == peer
