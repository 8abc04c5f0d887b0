"""Which of several orchestrators on one database leads, and how the others know.

On SQLite the leader holds a lock on a file; on PostgreSQL an advisory lock on a connection of
its own. Each leadership has an epoch, one above the last: the store refuses the writes of an
older one, and the driver's calls are refused here as soon as the lead is in doubt. A leader that
stands still without losing its connection (a stopped process) is cut off by its followers.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO, Protocol

import sqlalchemy as sa

from airan.core.errors import NotLeaderError, UnavailableError
from orchestrator.store.database import engine_of, take_lead
from orchestrator.store.postgres_session import PostgresSession

POLL_S = 0.5
BEAT_S = 0.5
DOUBT_S = 2.0
"""A leader that could not beat for this long no longer acts."""
HOPELESS_S = 3.5
"""A leader that could not beat for this long no longer asks the database for anything."""
SILENT_S = 5.0
"""A leader that has not beaten for this long is cut off by a follower."""
_CONTENDING_S = 6.0
"""A database that has not answered for this long is asked anew."""
_LOG = logging.getLogger("airan.orchestrator")


class Leadership(Protocol):
    """The lead over one site. Belongs to one event loop."""

    async def lead(self) -> int:
        """Returns once this orchestrator leads, with the epoch of its leadership."""
        ...

    async def lost(self) -> str:
        """Returns once the lead is lost, with the reason."""
        ...

    def require(self, doubt_s: float = DOUBT_S) -> None:
        """Returns if this orchestrator leads for certain: where there are beats, it beat within
        the last `doubt_s`.

        Raises:
            NotLeaderError: it does not, or cannot be sure.
        """
        ...

    async def close(self) -> None:
        """Gives the lead up. Idempotent."""
        ...


class FileLeadership:
    """On one host, by a lock on a file beside the SQLite database. A process that stands still
    keeps it."""

    def __init__(self, url: str) -> None:
        self._url = url
        # By whatever link the database is reached, the lock is the same.
        self._path = Path(url.removeprefix("sqlite:///")).resolve().with_suffix(".lock")
        self._file: IO[str] | None = None

    async def lead(self) -> int:
        """See `Leadership`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while (file := self._locked()) is None:
            await asyncio.sleep(POLL_S)
        self._file = file
        engine = engine_of(self._url)
        try:
            with engine.begin() as db:
                return take_lead(db, name_of_this(), time.time())
        finally:
            engine.dispose()

    async def lost(self) -> str:
        """See `Leadership`; the lock is held until the process ends, unless its file goes."""
        while self._holds():
            await asyncio.sleep(POLL_S)
        return f"{self._path} is gone"

    def require(self, doubt_s: float = DOUBT_S) -> None:  # noqa: ARG002 - never in doubt
        """See `Leadership`."""
        if not self._holds():
            raise NotLeaderError("this orchestrator does not lead")

    async def close(self) -> None:
        """See `Leadership`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _locked(self) -> IO[str] | None:
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def _holds(self) -> bool:
        """Whether others who open the file find it locked: not if it was removed."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False


class PostgresLeadership:
    """On any number of hosts, by PostgreSQL's advisory lock number `site`."""

    def __init__(self, url: str, site: int) -> None:
        self._engine = engine_of(url, poolclass=sa.pool.NullPool)
        self._site = site
        self._session: PostgresSession | None = None
        self._beaten_s = float("-inf")
        self._lost: asyncio.Future[str] | None = None
        self._beating: asyncio.Task[None] | None = None

    async def lead(self) -> int:
        """See `Leadership`."""
        while True:
            session = PostgresSession(self._engine, self._site)
            begun_s, epoch = time.monotonic(), None
            try:
                async with asyncio.timeout(_CONTENDING_S):
                    epoch = await asyncio.to_thread(session.contend, name_of_this(), SILENT_S)
            except (TimeoutError, sa.exc.SQLAlchemyError, UnavailableError) as error:
                _LOG.warning("cannot contend for the lead: %s", error or "no answer")
            finally:
                if epoch is None:
                    await asyncio.to_thread(session.close)
            if epoch is not None:
                break
            await asyncio.sleep(POLL_S)
        self._session, self._beaten_s = session, begun_s
        self._lost = asyncio.get_running_loop().create_future()
        self._beating = asyncio.create_task(self._beat(session, self._lost))
        return epoch

    async def lost(self) -> str:
        """See `Leadership`."""
        if self._lost is None:
            return "it was never gained"
        return await asyncio.shield(self._lost)

    def require(self, doubt_s: float = DOUBT_S) -> None:
        """See `Leadership`."""
        if self._lost is None or self._lost.done():
            raise NotLeaderError("this orchestrator does not lead")
        silent_s = time.monotonic() - self._beaten_s
        if silent_s > doubt_s:
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
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)
        self._engine.dispose()

    async def _beat(self, session: PostgresSession, lost: asyncio.Future[str]) -> None:
        reason = ""
        while not reason:
            await asyncio.sleep(BEAT_S)
            begun_s = time.monotonic()
            left_s = max(BEAT_S, DOUBT_S - (begun_s - self._beaten_s))
            try:
                async with asyncio.timeout(left_s):
                    await asyncio.to_thread(session.beat)
            except TimeoutError:
                reason = f"the database did not answer within {left_s:.1f} s"
            except (sa.exc.SQLAlchemyError, UnavailableError) as error:
                reason = f"the database connection failed: {error}"
            else:
                self._beaten_s = begun_s
        session.hang_up()
        if not lost.done():
            lost.set_result(reason)


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
