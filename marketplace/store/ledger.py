"""Jobs, their usage and the events around them."""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from marketplace.money import MICRO_USD_PER_USD, Price
from marketplace.store.billing import settle
from marketplace.store.connect import reading, writing
from marketplace.store.prepared import Prepared
from marketplace.store.presence import orphaned
from marketplace.store.schema import events, jobs, tenants, usage
from marketplace.store.webhooks import enqueue

OPEN_STATES = ("queued", "running", "preempted")
_RECENT_TTFT = 1000


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `text` is kept for asynchronous jobs, whose client fetches it later."""

    state: str  # completed | cancelled | failed
    input_tokens: int
    output_tokens: int
    tokens_lost: int = 0
    finish_reason: str | None = None
    text: str | None = None
    ttft_ms: float | None = None
    error_code: str | None = None
    error_message: str | None = None

    @property
    def billed(self) -> bool:
        """Completed jobs are billed, and cancelled ones for what they got; failed ones never."""
        return self.state == "completed" or (self.state == "cancelled" and self.output_tokens > 0)


# Spelled out, as lists of values are at each execution otherwise.
_IS_OPEN = jobs.c.state.in_([literal_column(f"'{state}'") for state in OPEN_STATES])
_WAITS = jobs.c.state.in_(("queued", "preempted"))
# Built once: to build a statement takes longer than to run it.
_ADD_JOB, _ADD_EVENT = insert(jobs), insert(events)
_FINISHED = (
    "state",
    "input_tokens",
    "output_tokens",
    "tokens_lost",
    "finish_reason",
    "text",
    "generated_ids",
    "ttft_ms",
    "error_code",
    "error_message",
    "updated_s",
)


def _finishing(*which: ColumnElement[bool]) -> Prepared:
    return Prepared(
        update(jobs)
        .where(jobs.c.id == bindparam("job_id"), _IS_OPEN, *which)
        .values({name: bindparam(f"new_{name}") for name in _FINISHED})
        .returning(
            jobs.c.id,
            jobs.c.tenant_id,
            jobs.c.key_id,
            jobs.c.model,
            jobs.c.updated_s,
            jobs.c.kind,
        )
    )


_FINISH_ANY = _finishing()
# A gateway that was given up finds its jobs to be another one's.
_FINISH_OWN = _finishing(jobs.c.gateway_id == bindparam("gateway"))


class Ledger:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: whose jobs these are; others' are not touched. None: everybody's."""
        self._engine = engine
        self._gateway_id = gateway_id

    def add_job(self, row: dict[str, Any], now_s: float) -> None:
        """Stores a new job: id, kind, tenant_id, key_id, model, request, input_tokens."""
        row = row | {"state": "queued", "created_s": now_s, "updated_s": now_s}
        with writing(self._engine) as connection:
            connection.execute(_ADD_JOB, row)

    def set_running(self, job_id: str, now_s: float, input_tokens: int) -> None:
        """Notes that an engine works on the job."""
        self._update_open(job_id, state="running", updated_s=now_s, input_tokens=input_tokens)

    def checkpoint(
        self, job_id: str, ids: Sequence[int], text: str, preemptions: int | None, now_s: float
    ) -> None:
        """Keeps what an asynchronous job has so far; `preemptions` not None: it is paused now."""
        values: dict[str, Any] = {"generated_ids": pack_ids(ids), "text": text, "updated_s": now_s}
        if preemptions is not None:
            values |= {"state": "preempted", "preemptions": preemptions}
        self._update_open(job_id, **values)

    def set_preempted(self, job_id: str, preemptions: int, now_s: float) -> None:
        """Notes that a job lost its engine; what it has lives on with its connection."""
        self._update_open(job_id, state="preempted", preemptions=preemptions, updated_s=now_s)

    def finish(self, job_id: str, outcome: Outcome, price: Price, now_s: float) -> bool:
        """Ends the job and bills it in one transaction; False if it had ended already.

        A job that ended stays as it ended: finishing twice bills once. `price` is for a job that
        was accepted without a quote, by an earlier airan.
        """
        values = {
            "new_state": outcome.state,
            "new_input_tokens": outcome.input_tokens,
            "new_output_tokens": outcome.output_tokens,
            "new_tokens_lost": outcome.tokens_lost,
            "new_finish_reason": outcome.finish_reason,
            "new_text": outcome.text,
            "new_generated_ids": None,
            "new_ttft_ms": outcome.ttft_ms,
            "new_error_code": outcome.error_code,
            "new_error_message": outcome.error_message,
            "new_updated_s": now_s,
            "job_id": job_id,
        }
        finish = _FINISH_ANY
        if self._gateway_id is not None:
            finish, values["gateway"] = _FINISH_OWN, self._gateway_id
        with writing(self._engine) as connection:
            row = finish.first(connection, values)
            if row is None:
                return False
            tokens = (outcome.input_tokens, outcome.output_tokens) if outcome.billed else None
            settle(connection, row, tokens, price)
            if row["kind"] != "sync":
                _announce(connection, row["tenant_id"], row["model"], values)
        return True

    def finish_again(self, job_id: str, outcome: Outcome, price: Price, now_s: float) -> bool:
        """finish(), after one of which nobody knows whether it was done: then True as well."""
        if self.finish(job_id, outcome, price, now_s):
            return True
        row = self.job(job_id)
        return row is not None and (row["state"], row["updated_s"]) == (outcome.state, now_s)

    def ask_to_cancel(self, job_id: str) -> None:
        """Has the gateway that runs a job end it soon."""
        self._update_open(job_id, of_all=True, cancel_asked=True)

    def adopt(self, job_id: str) -> dict[str, Any] | None:
        """Makes an open asynchronous job this gateway's, if its own is no more; its row then."""
        query = update(jobs).where(jobs.c.id == job_id, jobs.c.kind == "async", _IS_OPEN)
        query = query.where(orphaned(jobs)).values(gateway_id=self._gateway_id)
        with writing(self._engine) as connection:
            row = connection.execute(query.returning(jobs)).mappings().first()
        return None if row is None else dict(row)

    def asked_to_cancel(self) -> list[str]:
        """Ids of this gateway's open jobs that another one was asked to end."""
        query = select(jobs.c.id).where(
            _IS_OPEN, jobs.c.cancel_asked, jobs.c.gateway_id == self._gateway_id
        )
        with reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def job(self, job_id: str) -> dict[str, Any] | None:
        """The stored row of a job."""
        with reading(self._engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        return None if row is None else dict(row)

    def position(self, job_id: str) -> int:
        """Of a job that waits: how many of its model wait at its gateway that came no later, itself
        among them; 0: it does not wait."""
        one = select(jobs).where(jobs.c.id == job_id, _WAITS).subquery()
        query = (
            select(func.count())
            .select_from(jobs)
            .where(
                _WAITS,
                jobs.c.gateway_id == one.c.gateway_id,
                jobs.c.model == one.c.model,
                jobs.c.created_s <= one.c.created_s,
            )
        )
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def usage(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Billed jobs, tokens and money by tenant and model."""
        query = select(
            tenants.c.name.label("tenant"),
            usage.c.model,
            func.count().label("requests"),
            func.sum(usage.c.input_tokens).label("input_tokens"),
            func.sum(usage.c.output_tokens).label("output_tokens"),
            func.sum(usage.c.amount_micro_usd).label("amount_micro_usd"),
        ).join_from(usage, tenants)
        if tenant is not None:
            query = query.where(tenants.c.name == tenant)
        query = query.group_by(tenants.c.name, usage.c.model).order_by(tenants.c.name)
        with reading(self._engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def totals(self) -> dict[str, Any]:
        """Counters over the marketplace's whole life, from what is stored."""
        with reading(self._engine) as connection:
            states = select(jobs.c.state, func.count()).group_by(jobs.c.state)
            counts = {row[0]: row[1] for row in connection.execute(states)}
            sums = connection.execute(
                select(
                    func.coalesce(func.sum(jobs.c.input_tokens), 0),
                    func.coalesce(func.sum(jobs.c.output_tokens), 0),
                    func.coalesce(func.sum(jobs.c.tokens_lost), 0),
                    func.count().filter(jobs.c.preemptions > 0),
                )
            ).one()
            return {
                "received": sum(counts.values()),
                "states": counts,
                "input_tokens": sums[0],
                "output_tokens": sums[1],
                "tokens_lost": sums[2],
                "preempted": sums[3],
                "revenue_micro_usd": _revenue(connection),
            }

    def recent_ttft_ms(self) -> list[float]:
        """Times to first token of the latest jobs, oldest first."""
        query = select(jobs.c.ttft_ms).where(jobs.c.ttft_ms.is_not(None))
        query = query.order_by(jobs.c.updated_s.desc()).limit(_RECENT_TTFT)
        with reading(self._engine) as connection:
            return [float(value) for value in connection.execute(query).scalars()][::-1]

    def add_event(
        self, kind: str, message: str, now_s: float, severity: str, job_id: str | None
    ) -> None:
        """Appends an event."""
        row = {"kind": kind, "message": message, "time_s": now_s, "severity": severity}
        with writing(self._engine) as connection:
            connection.execute(_ADD_EVENT, row | {"job_id": job_id})

    def list_events(self, after_seq: int, limit: int) -> list[dict[str, Any]]:
        """Events with a greater number than `after_seq`, oldest first."""
        query = select(events).where(events.c.seq > after_seq).order_by(events.c.seq).limit(limit)
        with reading(self._engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _update_open(self, job_id: str, *, of_all: bool = False, **values: Any) -> None:
        query = update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(OPEN_STATES))
        if self._gateway_id is not None and not of_all:
            query = query.where(jobs.c.gateway_id == self._gateway_id)
        with writing(self._engine) as connection:
            connection.execute(query.values(values))


def _announce(db: Connection, tenant_id: str, model: str, ended: dict[str, Any]) -> None:
    """Has webhooks tell of a job whose client may not be there."""
    data = {
        "id": ended["job_id"],
        "model": model,
        "state": ended["new_state"],
        "input_tokens": ended["new_input_tokens"],
        "output_tokens": ended["new_output_tokens"],
        "error_code": ended["new_error_code"],
    }
    event = f"job.{ended['new_state']}"
    enqueue(db, tenant_id, event, ended["job_id"], data, ended["new_updated_s"])


def usd(micro: int) -> float:
    """Micro-USD -> USD, for display only."""
    return micro / MICRO_USD_PER_USD


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids -> int32, little-endian."""
    packed = array.array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes | None) -> list[int]:
    """The reverse of pack_ids; None gives no ids."""
    packed = array.array("i")
    packed.frombytes(data or b"")
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


def _revenue(connection: Connection) -> int:
    total = func.coalesce(func.sum(usage.c.amount_micro_usd), 0)
    return int(connection.execute(select(total)).scalar_one())
