"""Which of several orchestrators on one database leads, and how the others know.

On SQLite the leader holds a lock on a file; on PostgreSQL an advisory lock on a connection of
its own. Each leadership has an epoch, one above the last: the store refuses the writes of an
older one, and the driver's calls are refused here as soon as the lead is in doubt. A leader that
stands still without losing its connection (a stopped process) is cut off by its followers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO, Any, Protocol

import sqlalchemy as sa

from airan.core.errors import NotLeaderError, UnavailableError
from orchestrator.store.database import engine_of, take_lead

POLL_S = 0.5
BEAT_S = 0.5
DOUBT_S = 2.0
"""A leader that could not beat for this long no longer acts."""
SILENT_S = 5.0
"""A leader that has not beaten for this long is cut off by a follower."""
_LOCK_SPACE = 727
_CONNECT = {
    "connect_timeout": 2,
    "keepalives": 1,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 2000,
}


class Leadership(Protocol):
    """The lead over one site. Belongs to one event loop."""

    async def lead(self) -> int:
        """Returns once this orchestrator leads, with the epoch of its leadership."""
        ...

    async def lost(self) -> str:
        """Returns once the lead is lost, with the reason."""
        ...

    def require(self) -> None:
        """Returns if this orchestrator leads for certain.

        Raises:
            NotLeaderError: it does not, or cannot be sure.
        """
        ...

    async def close(self) -> None:
        """Gives the lead up. Idempotent."""
        ...


class FileLeadership:
    """On one host, by a lock on a file beside the SQLite database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = Path(url.removeprefix("sqlite:///")).with_suffix(".lock")
        self._file: IO[str] | None = None

    async def lead(self) -> int:
        """See `Leadership`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(POLL_S)
        self._file = file
        engine = engine_of(self._url)
        try:
            with engine.begin() as db:
                return take_lead(db, name_of_this(), time.time())
        finally:
            engine.dispose()

    async def lost(self) -> str:
        """See `Leadership`; the lock is held until the process ends."""
        await asyncio.Event().wait()
        return ""

    def require(self) -> None:
        """See `Leadership`."""
        if self._file is None:
            raise NotLeaderError("this orchestrator does not lead")

    async def close(self) -> None:
        """See `Leadership`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class PostgresLeadership:
    """On any number of hosts, by PostgreSQL's advisory lock number `site`."""

    def __init__(self, url: str, site: int) -> None:
        self._engine = engine_of(url, poolclass=sa.pool.NullPool, connect_args=_CONNECT)
        self._site = site
        self._db: sa.Connection | None = None
        self._epoch = 0
        self._beaten_s = float("-inf")
        self._lost: asyncio.Future[str] | None = None
        self._beating: asyncio.Task[None] | None = None

    async def lead(self) -> int:
        """See `Leadership`."""
        while True:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                begun_s = time.monotonic()
                if await asyncio.to_thread(self._try):
                    self._beaten_s = begun_s
                    break
            await asyncio.sleep(POLL_S)
        self._lost = asyncio.get_running_loop().create_future()
        self._beating = asyncio.create_task(self._beat())
        return self._epoch

    async def lost(self) -> str:
        """See `Leadership`."""
        if self._lost is None:
            return "it was never gained"
        return await asyncio.shield(self._lost)

    def require(self) -> None:
        """See `Leadership`."""
        if self._lost is None or self._lost.done():
            raise NotLeaderError("this orchestrator does not lead")
        silent_s = time.monotonic() - self._beaten_s
        if silent_s > DOUBT_S:
            raise NotLeaderError(
                f"the lead is in doubt: the database has not answered for {silent_s:.1f} s"
            )

    async def close(self) -> None:
        """See `Leadership`."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result("it was given up")
        db, self._db = self._db, None
        if db is not None:
            # Ends the session, and with it the lock.
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                await asyncio.to_thread(db.close)
        self._engine.dispose()

    async def _beat(self) -> None:
        reason = ""
        while not reason:
            await asyncio.sleep(BEAT_S)
            begun_s = time.monotonic()
            try:
                async with asyncio.timeout(DOUBT_S):
                    await asyncio.to_thread(self._write_beat)
            except TimeoutError:
                reason = f"the database did not answer within {DOUBT_S:g} s"
            except (sa.exc.SQLAlchemyError, UnavailableError) as error:
                reason = f"the database connection failed: {error}"
            else:
                self._beaten_s = begun_s
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    def _try(self) -> bool:
        db = self._engine.connect()
        try:
            locked = self._scalar(db, "SELECT pg_try_advisory_lock(:space, :site)")
            if not locked:
                self._cut_off_the_silent(db)
                db.close()
                return False
            self._epoch = take_lead(db, name_of_this(), self._now_s(db))
            db.commit()
        except BaseException:
            db.close()
            raise
        self._db = db
        return True

    def _write_beat(self) -> None:
        db = self._db
        if db is None:
            raise UnavailableError("the lead was given up")
        change = sa.text(
            "UPDATE leadership SET beat_s = extract(epoch FROM clock_timestamp())"
            " WHERE id = 1 AND epoch = :epoch"
        )
        if not db.execute(change, {"epoch": self._epoch}).rowcount:
            raise UnavailableError("another orchestrator leads")
        db.commit()

    def _cut_off_the_silent(self, db: sa.Connection) -> None:
        """Ends the session that holds the lock if its owner has stopped beating."""
        beat_s = db.execute(sa.text("SELECT beat_s FROM leadership WHERE id = 1")).scalar()
        if beat_s is None or self._now_s(db) - float(beat_s) < SILENT_S:
            db.rollback()
            return
        self._scalar(
            db,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"
            " AND classid = :space AND objid = :site AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        db.commit()

    def _now_s(self, db: sa.Connection) -> float:
        """The database's clock, by which all beats are told."""
        return float(
            db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )

    def _scalar(self, db: sa.Connection, query: str) -> Any:
        return db.execute(sa.text(query), {"space": _LOCK_SPACE, "site": self._site}).scalar_one()


def leadership_of(url: str, site: int = 1) -> Leadership:
    """The kind of leadership that goes with a database."""
    return FileLeadership(url) if url.startswith("sqlite") else PostgresLeadership(url, site)


def name_of_this() -> str:
    """This process, for those who ask who leads."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def while_leading(leadership: Leadership, stop: asyncio.Event) -> str:
    """Returns why the lead ended, or nothing once `stop` is set."""
    lost = asyncio.ensure_future(leadership.lost())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return lost.result() if lost.done() else ""
    finally:
        for task in (lost, stopped):
            task.cancel()
        await asyncio.gather(lost, stopped, return_exceptions=True)
