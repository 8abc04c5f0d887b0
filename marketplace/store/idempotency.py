"""Requests with an Idempotency-Key as stored. All calls are blocking and safe from threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, delete, select, update

from marketplace.store.connect import inserts_once, writing
from marketplace.store.presence import check_seated
from marketplace.store.schema import idempotency_keys as table

_ADD = {name: query.returning(table.c.key) for name, query in inserts_once(table).items()}
KEPT_S = 24 * 3600.0
"""How long an answer is kept, from when its request came in."""


@dataclass(frozen=True)
class StoredAnswer:
    """An answer as it was sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Claim:
    """What a key is good for now.

    `run`: this request runs, as number `attempt` under the key. `replay`: send `answer`. `busy`:
    the first is not done yet. `differs`: the key belongs to another request. `unkept`: done, but
    its answer is not stored.
    """

    kind: Literal["run", "replay", "busy", "differs", "unkept"]
    attempt: int = 1
    answer: StoredAnswer | None = None


class IdempotencyKeys:
    """A row a key and owner; at most one request runs under it at a time."""

    def __init__(self, engine: Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: for whom keys are claimed; others' are not touched. None: everybody's."""
        self._engine = engine
        self._gateway_id = gateway_id

    def claim(self, owner: str, key: str, fingerprint: str, now_s: float) -> Claim:
        """Takes the key for a request, unless an earlier request under it forbids that.

        Raises:
            UnavailableError: this gateway was given up.
        """
        mine = (table.c.owner == owner, table.c.key == key)
        with writing(self._engine) as db:
            check_seated(db, self._gateway_id)
            db.execute(delete(table).where(*mine, table.c.created_s <= now_s - KEPT_S))
            values: dict[str, Any] = {"owner": owner, "key": key, "fingerprint": fingerprint}
            values |= {"state": "running", "attempt": 1, "created_s": now_s}
            values |= {"gateway_id": self._gateway_id}
            # Of two gateways that ask at once, one waits here for the other.
            if db.execute(_ADD[self._engine.dialect.name], values).first() is not None:
                return Claim("run")
            row = db.execute(select(table).where(*mine).with_for_update()).mappings().first()
            if row is None:
                # It was too old, and another gateway has just deleted it.
                return Claim("busy")
            if row["fingerprint"] != fingerprint:
                return Claim("differs")
            if row["state"] == "done":
                headers = tuple((name, value) for name, value in json.loads(row["headers"]))
                return Claim("replay", answer=StoredAnswer(row["status"], headers, row["body"]))
            if row["state"] != "open":
                return Claim("busy" if row["state"] == "running" else "unkept")
            taken = {"state": "running", "gateway_id": self._gateway_id}
            db.execute(update(table).where(*mine).values(**taken))
            return Claim("run", row["attempt"])

    def withdraw(self, owner: str, key: str, now_s: float) -> None:
        """Frees a key whose claim at that time nobody knows the outcome of."""
        mine = (table.c.owner == owner, table.c.key == key, table.c.created_s == now_s)
        with writing(self._engine) as db:
            query = update(table).where(*mine, *self._running())
            db.execute(query.values(state="open"))

    def keep(self, owner: str, key: str, answer: StoredAnswer | None) -> None:
        """Ends a run for good; with no answer, it is only known that it is done."""
        if answer is None:
            self._end(owner, key, state="unkept")
            return
        self._end(
            owner,
            key,
            state="done",
            status=answer.status,
            headers=json.dumps(answer.headers),
            body=answer.body,
        )

    def reopen(self, owner: str, key: str, attempt: int) -> None:
        """Ends a run that may be repeated, as number `attempt`."""
        self._end(owner, key, state="open", attempt=attempt)

    def purge(self, now_s: float) -> None:
        """Deletes what is older than it is kept."""
        with writing(self._engine) as db:
            db.execute(delete(table).where(table.c.created_s <= now_s - KEPT_S))

    def _end(self, owner: str, key: str, **values: object) -> None:
        mine = (table.c.owner == owner, table.c.key == key)
        with writing(self._engine) as db:
            db.execute(update(table).where(*mine, *self._running()).values(values))

    def _running(self) -> tuple[ColumnElement[bool], ...]:
        """A claim of ours: one that was given up finds its keys to be another one's."""
        running = table.c.state == "running"
        if self._gateway_id is None:
            return (running,)
        return running, table.c.gateway_id == self._gateway_id
