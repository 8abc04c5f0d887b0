"""One database, SQLite (WAL) or PostgreSQL: transactions, upserts, migrations, fencing."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from airan.core.errors import ConfigError, StaleGenerationError, UnavailableError
from orchestrator.store import migrate
from orchestrator.store.schema import LEADERSHIP

ANSWER_S = 4.0
"""PostgreSQL's time for one transaction: a server that is never heard of again would otherwise
hold the caller for ever."""
_LEADER_ROW = 1
_SWITCH_S = 5.0
_CONNECTING = {
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "2",
    "tcp_user_timeout": "2000",
}
"""So that a host that is gone is noticed within 3 s; what the URL says goes first."""
_SESSION = "SET idle_in_transaction_session_timeout = '4s'; SET lock_timeout = '5s'"
"""A leader that is stopped within a transaction must not keep its rows from the next leader."""


def engine_of(url: str, **options: Any) -> sa.Engine:
    """An engine for `sqlite:///PATH` or `postgresql://...` (`postgresql+psycopg://...`).

    Raises:
        ConfigError: another kind of database, or its driver is not installed.
    """
    try:
        full = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        # The text may hold a password, so it is not repeated.
        raise ConfigError(
            "the database's URL cannot be read", remedy="use sqlite:///PATH or postgresql://..."
        ) from error
    kind = full.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"no support for {kind} databases", remedy="use sqlite:///PATH or postgresql://..."
        )
    if kind == "postgresql":
        query = {**_CONNECTING, **full.query}
        full = full.set(drivername="postgresql+psycopg", query=query)
    try:
        engine = sa.create_engine(full, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the database's driver is missing: {error.name}",
            remedy="install airan with its extra `postgres`",
        ) from error
    if kind == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "connect", _configure_postgres)
    return engine


class Database:
    """Access to one database. Every transaction is short.

    Raises:
        UnavailableError: from any method, when the database cannot be read or written.
        StaleGenerationError: from any write, once another orchestrator has taken the lead.
    """

    def __init__(self, url: str) -> None:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._engine = engine_of(url)
        self.name = self._engine.url.set(query={}).render_as_string(hide_password=True)
        self.epoch: int | None = None
        """Of our leadership: writes are refused once the database knows a newer one. None: this
        database is nobody else's."""
        self.require: Callable[[], None] = lambda: None
        """Asked before every transaction; raises NotLeaderError where there is no hope of one."""
        self._joined: sa.Connection | None = None
        self._after: list[Callable[[], None]] = []
        self._upserts: dict[str, Any] = {}
        try:
            with self._translated():
                migrate.upgrade(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the database. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        if self._joined is not None:
            yield self._joined
            return
        with self._translated(), self._transaction(self._engine) as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes, refused if another orchestrator leads by now."""
        if self._joined is not None:
            yield self._joined
            return
        with self._translated(), self._transaction(migrate.alone(self._engine)) as db:
            if self.epoch is not None:
                # The row stays locked until the end, so that no leader can come in between.
                row = sa.select(LEADERSHIP.c.epoch).where(LEADERSHIP.c.id == _LEADER_ROW)
                newest = db.execute(row.with_for_update(read=True)).scalar()
                if newest != self.epoch:
                    raise StaleGenerationError(
                        f"leadership {self.epoch} is over: {newest} has begun",
                        remedy="another orchestrator leads; this one must stop",
                    )
            yield db

    @contextmanager
    def together(self) -> Iterator[None]:
        """Makes all that is read and written within one transaction, kept whole or not at all.

        Never wait within it: whatever ran meanwhile would be part of it.
        """
        if self._joined is not None:
            yield
            return
        try:
            with self.writing() as db:
                self._joined = db
                try:
                    yield
                finally:
                    self._joined = None
        except BaseException:
            self._after.clear()
            raise
        after, self._after = self._after, []
        for tell in after:
            tell()

    def then(self, tell: Callable[[], None]) -> None:
        """Calls `tell` once what is being written is kept: at once outside of `together`."""
        if self._joined is None:
            tell()
        else:
            self._after.append(tell)

    def upsert(self, table: sa.Table) -> sa.Executable:
        """Inserts the row that it is executed with, or replaces the one with its primary key."""
        if table.name not in self._upserts:
            insert = self.insert(table)
            keys = [column.name for column in table.primary_key]
            others = {c.name: insert.excluded[c.name] for c in table.c if c.name not in keys}
            change = insert.on_conflict_do_update(index_elements=keys, set_=others)
            self._upserts[table.name] = change
        found: sa.Executable = self._upserts[table.name]
        return found

    def insert(self, table: sa.Table) -> Any:
        """The dialect's insert, which knows conflicts."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        self.require()
        with engine.connect() as db:
            if engine.dialect.name == "sqlite":  # never waits for longer than its busy_timeout
                with db.begin():
                    yield db
                return
            limit = threading.Timer(ANSWER_S, hang_up, (db.connection.driver_connection,))
            limit.daemon = True
            limit.start()
            try:
                with db.begin():
                    yield db
            finally:
                limit.cancel()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise UnavailableError(
                f"the orchestrator's database {self.name} failed: {error}",
                remedy="check that it runs, its disk is not full and its file is not damaged",
            ) from error


def hang_up(connection: Any) -> None:
    """Ends a connection of psycopg's, also while another thread waits for an answer on it.

    That thread is not robbed of the connection, which it still uses, only of the line.
    """
    if connection is None or connection.closed:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def take_lead(db: sa.Connection, holder: str, now_s: float) -> int:
    """Begins a new leadership; returns its epoch. The caller holds the lock on leading."""
    mine = LEADERSHIP.c.id == _LEADER_ROW
    change = LEADERSHIP.update().where(mine)
    values = {"epoch": LEADERSHIP.c.epoch + 1, "holder": holder, "beat_s": now_s}
    if not db.execute(change.values(values)).rowcount:
        db.execute(LEADERSHIP.insert().values(id=_LEADER_ROW, epoch=1, holder=holder, beat_s=now_s))
    epoch: int = db.execute(sa.select(LEADERSHIP.c.epoch).where(mine)).scalar_one()
    return epoch


def _configure_sqlite(connection: Any, _: Any) -> None:
    # Left to itself, Python's sqlite3 begins a transaction at the first change: what was read
    # before, and every change of a table, would be outside of it.
    connection.isolation_level = None
    # NORMAL loses no transaction when a process is killed, only when the machine loses power.
    for pragma in ("busy_timeout=5000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    _keep_a_log(connection)


def _keep_a_log(connection: Any) -> None:
    """Switches the file to a write-ahead log, where it is not."""
    patience_s = time.monotonic() + _SWITCH_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            # Of two that switch a new file at once SQLite refuses one without letting it wait.
            if time.monotonic() > patience_s:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(db: sa.Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("alone") else "BEGIN")


def _configure_postgres(connection: Any, _: Any) -> None:
    connection.execute(_SESSION)
    connection.commit()
