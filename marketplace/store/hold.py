"""One gateway to a database: two that ran its open jobs would do, and bill, them twice.

Ended by whatever means, a process frees its hold: a lock on a file beside SQLite's, an advisory
lock on a connection of its own in PostgreSQL.
"""

from __future__ import annotations

import fcntl
import logging
import time
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from orchestrator.store.database import engine_of

log = logging.getLogger(__name__)

_PATIENCE_S = 3.0
"""A server frees the hold of a process that was killed when it notices."""
_AGAIN_S = 0.2
_SPACE = 727_003
"""Of PostgreSQL's advisory locks; a schema each."""
_TRY = sa.text(f"SELECT pg_try_advisory_lock({_SPACE}, hashtext(current_schema()))")
_REMEDY = (
    "stop it first, or give this site a market.database_url of its own: sites share work as peers "
    "(market.peers), not a database"
)


class Hold:
    """Blocking; take() before anything is read, keep() now and then, close() at the end."""

    def __init__(self, url: str) -> None:
        self._engine: sa.Engine | None = None
        self._db: sa.Connection | None = None
        self._path: Path | None = None
        self._file: IO[str] | None = None
        if url.startswith("sqlite:///"):
            self._path = Path(url.removeprefix("sqlite:///")).resolve().with_suffix(".lock")
        else:
            self._engine = engine_of(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
        self._name = sa.make_url(url).set(query={}).render_as_string(hide_password=True)

    def take(self) -> None:
        """Has the database for this gateway alone. Idempotent.

        Raises:
            UnavailableError: another gateway has it, or it cannot be asked.
        """
        if not (self._lock_file() if self._engine is None else self._lock_session(self._engine)):
            raise UnavailableError(
                f"another gateway works on the database {self._name}", remedy=_REMEDY
            )

    def keep(self) -> bool:
        """Looks whether it is still held, and takes it again where a connection was lost; False:
        another gateway has it by now."""
        if self._engine is None:
            return True
        try:
            if self._db is not None:
                self._db.exec_driver_sql("SELECT 1")
                return True
        except sa.exc.SQLAlchemyError as error:
            log.warning("the database's connection was lost: %s", error)
            self._hang_up()
        try:
            return self._lock_session(self._engine)
        except UnavailableError:
            # The server is away: whoever comes first when it is back has it.
            return True

    def close(self) -> None:
        """Gives it up. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._hang_up()
        if self._engine is not None:
            self._engine.dispose()

    def _lock_file(self) -> bool:
        if self._file is not None or self._path is None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def _lock_session(self, engine: sa.Engine) -> bool:
        if self._db is not None:
            return True
        try:
            db = engine.connect()
            if not db.execute(_TRY).scalar_one():
                db.close()
                return False
        except sa.exc.SQLAlchemyError as error:
            raise UnavailableError(
                f"database {self._name} cannot be reached: {error}",
                remedy="check market.database_url, and that the server runs",
            ) from error
        self._db = db
        return True

    def _hang_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.invalidate()
            db.close()


def check_free(url: str, patience_s: float = _PATIENCE_S) -> None:
    """Lets a site start that would have the database for itself.

    Raises:
        UnavailableError: another gateway has it, or it cannot be reached.
        ConfigError: the URL is no database's.
    """
    hold, deadline_s = Hold(url), time.monotonic() + patience_s
    try:
        while True:
            try:
                hold.take()
            except UnavailableError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(_AGAIN_S)
            else:
                return
    finally:
        hold.close()
