"""One gateway to an SQLite database: two would each wait for what the other has locked.

A lock on a file beside it, which a process frees by its end. Several gateways work on PostgreSQL.
"""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from orchestrator.store.database import engine_of

_PATIENCE_S = 3.0
"""Whoever was killed, or is just ending, may need a moment."""
_AGAIN_S = 0.2
_SQLITE = "sqlite:///"


def is_sqlite(url: str) -> bool:
    """Whether the URL is an SQLite database's."""
    return url.startswith(_SQLITE)


class Hold:
    """Blocking; take() before anything is read, close() at the end."""

    def __init__(self, url: str) -> None:
        """`url`: of an SQLite database."""
        self._database = Path(url.removeprefix(_SQLITE)).resolve()
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Has the database for this gateway alone. Idempotent.

        Raises:
            UnavailableError: another gateway has it.
        """
        if self._file is not None:
            return
        self._database.parent.mkdir(parents=True, exist_ok=True)
        file = self._database.with_suffix(".lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UnavailableError(
                f"another gateway works on the database {self._database}",
                remedy="stop it first, or have both use one on PostgreSQL (market.database_url)",
            ) from None
        self._file = file

    def close(self) -> None:
        """Gives it up. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def check_free(url: str, patience_s: float = _PATIENCE_S) -> None:
    """Lets a site start that can work on the database.

    Raises:
        UnavailableError: it is SQLite's and another gateway has it, or it cannot be reached.
        ConfigError: the URL is no database's.
    """
    if not is_sqlite(url):
        _reach(url)
        return
    hold, deadline_s = Hold(url), time.monotonic() + patience_s
    while True:
        try:
            hold.take()
        except UnavailableError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_AGAIN_S)
        else:
            hold.close()
            return


def _reach(url: str) -> None:
    engine = engine_of(url, poolclass=sa.pool.NullPool)
    name = engine.url.set(query={}).render_as_string(hide_password=True)
    try:
        engine.connect().close()
    except sa.exc.SQLAlchemyError as error:
        raise UnavailableError(
            f"database {name} cannot be reached: {error}",
            remedy="check market.database_url, and that the server runs",
        ) from error
    finally:
        engine.dispose()
