"""Opens the marketplace's database, SQLite or PostgreSQL, in the newest schema."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite

from airan.core.errors import ConfigError
from marketplace.store import migrate
from orchestrator.store.database import engine_of
from orchestrator.store.migrate import alone


def open_database(url: str) -> sa.Engine:
    """Opens the database and brings its tables up to date.

    SQLite runs in WAL mode with full synchronisation: what was committed survives a crash.

    Raises:
        ConfigError: the URL is no database's, it cannot be opened, or a newer airan wrote it.
    """
    # A server that was restarted is noticed before a request is lost on the old connection.
    engine = engine_of(url, pool_pre_ping=True)
    name = engine.url.set(query={}).render_as_string(hide_password=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
    try:
        migrate.upgrade(engine)
    except sa.exc.SQLAlchemyError as error:
        engine.dispose()
        raise ConfigError(
            f"database {name} cannot be opened: {error}",
            remedy="check the path and its permissions, or that the server runs",
        ) from error
    except CommandError as error:
        engine.dispose()
        raise ConfigError(
            f"database {name} was written by a newer airan ({error})",
            remedy="update airan, or give it another state folder",
        ) from error
    return engine


class SpoiledError(Exception):
    """A part of a common transaction failed after it had written something."""


class _Joined(threading.local):
    db: sa.Connection | None = None
    spoiled: bool = False
    hurried: bool = False


_joined = _Joined()
"""The transaction that all work of this thread is part of, and whether it is in a hurry."""
_HURRY = "SET LOCAL lock_timeout = '250ms'"


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes: on SQLite it is alone from its start, so that it never has to
    give up because of what another one wrote meanwhile. Within `together` a part of that one,
    which can fail by itself as long as it has written nothing."""
    if _joined.db is not None:
        n_before = _n_changes(_joined.db)
        try:
            yield _joined.db
        except BaseException:
            # A full disk, for one, has SQLite give up the whole transaction by itself.
            if _n_changes(_joined.db) != n_before or not _driver(_joined.db).in_transaction:
                _joined.spoiled = True
            raise
        return
    with alone(engine).begin() as db:
        if _joined.hurried and engine.dialect.name == "postgresql":
            db.exec_driver_sql(_HURRY)
        yield db


@contextmanager
def hurried() -> Iterator[None]:
    """What this thread writes meanwhile waits for no lock of PostgreSQL's for long, so that other
    work comes in between."""
    _joined.hurried = True
    try:
        yield
    finally:
        _joined.hurried = False


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection to read on; within `together` it sees what was written there."""
    if _joined.db is not None:
        yield _joined.db
        return
    with engine.connect() as db:
        yield db


@contextmanager
def together(engine: sa.Engine) -> Iterator[Callable[[], bool]]:
    """Makes what this thread writes one transaction: all of it is kept by its end, or nothing.

    For SQLite. There are no savepoints, which would cost as much as the parts themselves; what it
    gives tells whether a part has failed half done, after which nothing may be done in it any more.

    Raises:
        SpoiledError: a part failed half done; nothing of any part is kept.
    """
    with alone(engine).begin() as db:
        _joined.db, _joined.spoiled = db, False
        try:
            yield lambda: _joined.spoiled
            if _joined.spoiled:
                raise SpoiledError
        finally:
            _joined.db = None


def _n_changes(db: sa.Connection) -> int:
    return int(_driver(db).total_changes)


def _driver(db: sa.Connection) -> Any:
    return db.connection.driver_connection


_DIALECTS = (("sqlite", sqlite), ("postgresql", postgresql))


def inserts_once(table: sa.Table) -> dict[str, Any]:
    """Statements that insert a row unless there is one with its key, by dialect. Of two that
    insert the same one, the later waits for the other."""
    return {name: dialect.insert(table).on_conflict_do_nothing() for name, dialect in _DIALECTS}


def upserts(table: sa.Table, add: str = "") -> dict[str, Any]:
    """Statements that insert a row or replace the one with its primary key, by dialect.

    `add`: the column whose value is added to the present one, instead of replacing it.
    """
    found = {}
    for name, dialect in _DIALECTS:
        insert: Any = dialect.insert(table)
        keys = [column.name for column in table.primary_key]
        changes = {
            column.name: insert.excluded[column.name]
            for column in table.c
            if column.name not in keys
        }
        if add:
            changes[add] = table.c[add] + changes[add]
        found[name] = insert.on_conflict_do_update(index_elements=keys, set_=changes)
    return found


def _configure_sqlite(connection: Any, _: Any) -> None:
    # Of several that open a new database at once, the last waits for all of its migrations.
    for pragma in ("busy_timeout=30000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
