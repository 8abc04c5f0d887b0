"""The seats of the gateways on a database: who works on it, and who has gone.

On SQLite there is one. On PostgreSQL each gateway holds an advisory lock on a connection of its
own, which the server frees when the gateway ends, by whatever means. A lock that stays free means
that its gateway is no more: another one takes its seat away and goes on with what it left. A
gateway that stands still with its connection open is cut off after a while. Whoever finds its seat
gone was given up, and must do nothing more.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.siblings.sibling import Report, Sibling
from marketplace.store.connect import writing
from marketplace.store.schema import gateways
from marketplace.store.takeover import Inheritance, inherit
from orchestrator.store.database import engine_of

log = logging.getLogger(__name__)

MOST = 64
"""Gateways on one database."""
GONE_S = 2.0
"""For how long a lock has to be free before its gateway is given up: one that has only lost its
connection takes the lock again sooner."""
STALE_S = 3.0
"""What a gateway reported so long ago holds no longer: the places of one that stands still are not
kept for it."""
SILENT_S = 20.0
"""A gateway that says nothing for so long, though its connection is open, is cut off."""
_SPACE = 727_003
"""Of PostgreSQL's advisory locks; schemas and seats have their own in it."""
_NOW = "extract(epoch FROM clock_timestamp())"
_KEY = sa.text(f"SELECT hashtextextended(current_schema() || '/' || :number, {_SPACE})")
_HELD = sa.text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'"
    " AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_TRY = sa.text("SELECT pg_try_advisory_lock(:key)")
_FREE = sa.text("SELECT pg_advisory_unlock(:key)")
# Not whoever has that number by now: of one that was killed another process may have it.
_CUT_OFF = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    " AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (classid::bigint << 32) | objid::bigint = :key AND pid = :pid"
)
_KEEP_ALIVE = ("tcp_keepalives_idle = 5", "tcp_keepalives_interval = 2", "tcp_keepalives_count = 3")
"""So that the server notices a gateway whose host is gone."""


class SeatLostError(UnavailableError):
    """Another gateway has taken this one's seat away, and its work."""


@dataclass(frozen=True)
class Round:
    """What a look at the seats came to.

    Attributes:
        siblings: the other gateways.
        inherited: what this one goes on with, of one that has gone.
    """

    siblings: tuple[Sibling, ...] = ()
    inherited: Inheritance | None = None


class Seats:
    """One gateway's view. All calls are blocking; one thread at a time."""

    def __init__(
        self, engine: sa.Engine, gateway_id: str, url: str, models: Collection[str]
    ) -> None:
        """`engine`: of the marketplace's database. `url`: where the others reach this gateway.
        `models`: that it can serve."""
        self._engine = engine
        self._id = gateway_id
        self._url = url
        self._models = frozenset(models)
        self._line: _Line | None = None
        if engine.dialect.name == "postgresql":
            self._line = _Line(engine.url.render_as_string(hide_password=False))
        self._free_since_s: dict[str, float] = {}
        self._known: frozenset[str] = frozenset()
        """Ids of the other gateways, as they were last seen."""
        self._last = Round()
        self.number = 0
        """Of the seat; the lowest of all leads."""

    @property
    def are_several(self) -> bool:
        """Whether there can be other gateways."""
        return self._line is not None

    def take(self, now_s: float) -> Inheritance:
        """Takes the lowest seat that is free; what nobody works on is this gateway's from now on.

        Raises:
            UnavailableError: there are too many gateways, or the server is away.
            sqlalchemy.exc.SQLAlchemyError: the database fails.
        """
        if self._line is None:
            with writing(self._engine) as db:
                db.execute(sa.delete(gateways))
                return self._settle(db, None, None, now_s)
        for number in range(MOST):
            key = self._line.key(number)
            if self._line.try_lock(key):
                with writing(self._engine) as db:
                    if _is_free(db, number):
                        self.number = number
                        db.execute(sa.delete(gateways).where(gateways.c.number == number))
                        return self._settle(db, key, self._line.pid, now_s)
                self._line.free(key)
        raise UnavailableError(
            f"{MOST} gateways work on the database already", remedy="stop one of them"
        )

    def keep(self, report: Report, now_s: float) -> Round:
        """Says how this gateway stands, and looks after the others. Where the server is away the
        others are as they were.

        Raises:
            SeatLostError: this one was given up.
        """
        if self._line is None:
            return self._last
        try:
            self._last = self._keep(self._line, report, now_s)
        except sa.exc.SQLAlchemyError as error:
            log.warning("the gateways' seats cannot be seen: %s", error)
            self._line.hang_up()
            self._free_since_s.clear()
            self._last = Round(self._last.siblings)
        return self._last

    def leave(self) -> None:
        """Gives the seat up, at once; others go on with what is open. Idempotent."""
        try:
            with writing(self._engine) as db:
                mine = sa.update(gateways).where(gateways.c.id == self._id)
                db.execute(mine.values(ended=True))
        except sa.exc.SQLAlchemyError as error:
            log.warning("the others are not told that this gateway ends: %s", error)
        if self._line is not None:
            self._line.close()

    def _settle(
        self, db: sa.Connection, key: int | None, pid: int | None, now_s: float
    ) -> Inheritance:
        # Read before what they left: who goes meanwhile is missed later.
        self._known = frozenset(db.execute(sa.select(gateways.c.id)).scalars())
        row = {"id": self._id, "number": self.number, "lock_key": key, "pid": pid}
        row |= {"url": self._url, "report": json.dumps(Report().to_dict()), "ended": False}
        seen: Any = now_s if key is None else sa.text(_NOW)
        db.execute(sa.insert(gateways).values(**row, seen_s=seen))
        return inherit(db, self._id, self._models, now_s)

    def _keep(self, line: _Line, report: Report, now_s: float) -> Round:
        db = line.connected()
        mine = sa.update(gateways).where(gateways.c.id == self._id)
        text = json.dumps(report.to_dict())
        query = mine.values(seen_s=sa.text(_NOW), report=text, pid=line.pid)
        kept = db.execute(query.returning(gateways.c.lock_key)).first()
        if kept is None:
            raise SeatLostError("another gateway took this one for dead and has its work")
        held = set(db.execute(_HELD).scalars())
        if kept.lock_key not in held:
            # After a lost connection; whoever has it now is about to take the seat away.
            line.try_lock(kept.lock_key)
        others = sa.select(gateways, sa.text(f"{_NOW} - seen_s AS silent_s"))
        rows = db.execute(others.where(gateways.c.id != self._id).order_by(gateways.c.number)).all()
        siblings = {row.id: _sibling(row) for row in rows if not row.ended}
        gone = [row for row in rows if self._is_gone(line, row, row.lock_key in held)]
        inherited = self._inherit(line, gone, frozenset(row.id for row in rows), now_s)
        for row in gone:
            siblings.pop(row.id, None)
        return Round(tuple(siblings.values()), inherited)

    def _inherit(
        self, line: _Line, gone: Sequence[Any], ids: frozenset[str], now_s: float
    ) -> Inheritance | None:
        """What is this gateway's from now on; `ids`: of all other gateways."""
        inherited = None
        for row in gone:
            inherited = self._take_away(line, row, now_s)
            if inherited is not None:
                break
        if inherited is None and self._known - ids:
            # Another one has taken its seat away, and may not be able to serve all that it left.
            with writing(self._engine) as db:
                inherited = inherit(db, self._id, self._models, now_s) or None
        self._known = ids
        return inherited

    def _is_gone(self, line: _Line, row: Any, is_held: bool) -> bool:
        if is_held:
            self._free_since_s.pop(row.id, None)
            if row.silent_s > SILENT_S:
                log.warning("gateway %d has said nothing for %.0f s", row.number, row.silent_s)
                line.connected().execute(_CUT_OFF, {"key": row.lock_key, "pid": row.pid})
            return False
        now_s = time.monotonic()
        since_s = self._free_since_s.setdefault(row.id, now_s)
        # After a restart of the server everybody has to come back first.
        return row.ended or now_s - max(since_s, line.since_s) >= GONE_S

    def _take_away(self, line: _Line, row: Any, now_s: float) -> Inheritance | None:
        """What that gateway has left; None: it is there after all, or another one was faster."""
        if not line.try_lock(row.lock_key):
            return None
        try:
            with writing(self._engine) as db:
                gone = sa.delete(gateways).where(gateways.c.id == row.id)
                if not db.execute(gone).rowcount:
                    return None
                log.warning("gateway %d has gone: this one goes on with its work", row.number)
                return inherit(db, self._id, self._models, now_s)
        finally:
            # What was taken must not be lost with the line.
            with suppress(sa.exc.SQLAlchemyError):
                line.free(row.lock_key)


class _Line:
    """A connection to PostgreSQL that holds locks."""

    def __init__(self, url: str) -> None:
        self._engine = engine_of(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
        self._db: sa.Connection | None = None
        self.pid: int | None = None
        self.since_s = 0.0
        """Monotonic time at which it was made."""

    def connected(self) -> sa.Connection:
        """The connection, made if there is none."""
        if self._db is None:
            db = self._engine.connect()
            try:
                for setting in _KEEP_ALIVE:
                    db.exec_driver_sql(f"SET {setting}")
                self.pid = int(db.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            except BaseException:
                db.close()
                raise
            self._db, self.since_s = db, time.monotonic()
        return self._db

    def key(self, number: int) -> int:
        """The lock of that seat in this database and schema."""
        return int(self.connected().execute(_KEY, {"number": str(number)}).scalar_one())

    def try_lock(self, key: int) -> bool:
        """Takes a lock if it is free."""
        return bool(self.connected().execute(_TRY, {"key": key}).scalar_one())

    def free(self, key: int) -> None:
        """Gives a lock back; a lost connection has done so by itself."""
        if self._db is not None:
            self._db.execute(_FREE, {"key": key})

    def hang_up(self) -> None:
        """Ends the connection, and frees its locks with it."""
        db, self._db, self.pid = self._db, None, None
        if db is not None:
            db.invalidate()
            db.close()

    def close(self) -> None:
        """Hangs up for good."""
        self.hang_up()
        self._engine.dispose()


def _is_free(db: sa.Connection, number: int) -> bool:
    """Whether nobody has the seat, whose lock is ours, or is just about to come back to it."""
    query = sa.select(gateways.c.ended, sa.text(f"{_NOW} - seen_s AS silent_s"))
    row = db.execute(query.where(gateways.c.number == number)).first()
    return row is None or row.ended or row.silent_s >= GONE_S


def _sibling(row: Any) -> Sibling:
    is_stale = row.silent_s > STALE_S
    report = Report() if is_stale else Report.from_dict(json.loads(row.report))
    return Sibling(row.id, row.number, row.url, report)
