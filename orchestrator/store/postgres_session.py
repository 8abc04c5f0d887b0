"""One connection to PostgreSQL that contends for the lead, holds it and beats.

Everything here blocks and runs in a thread; `hang_up` may be called from another at any time and
wakes it.
"""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa

from airan.core.errors import UnavailableError
from orchestrator.store.database import hang_up, take_lead

_LOCK_SPACE = 727
_CLOSING_S = 1.0
_NOW = "extract(epoch FROM clock_timestamp())"
"""By the database's clock all beats are told."""
_BEAT = f"UPDATE leadership SET beat_s = {_NOW} WHERE id = 1 AND epoch = :epoch"
_SILENCE = f"SELECT {_NOW} - beat_s FROM leadership WHERE id = 1"
# Not a session that took the lock just now and is about to note its first beat.
_CUT_OFF = """
SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid = :space AND objid = :site AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND state_change < clock_timestamp() - make_interval(secs => :silent_s)
"""


class PostgresSession:
    """A session; its end, from whatever cause, is the end of the lead it holds.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: from any method, when the connection fails.
    """

    def __init__(self, engine: sa.Engine, site: int) -> None:
        self._engine, self._site = engine, site
        self._db: sa.Connection | None = None
        self._raw: Any = None
        self._busy = threading.Lock()
        self._over = False
        self._epoch = 0

    def contend(self, holder: str, silent_s: float) -> int | None:
        """Takes the lead if it is free and returns its epoch; cuts off a holder that has been
        silent for `silent_s`. Without the lead the session is closed."""
        with self._busy:
            try:
                if self._contend(holder, silent_s):
                    return self._epoch
            except BaseException:
                self._drop()
                raise
            self._drop()
            return None

    def beat(self) -> None:
        """Says that the leader lives.

        Raises:
            UnavailableError: another leads.
        """
        with self._busy:
            db = self._db
            if db is None or self._over:
                raise UnavailableError("the lead was given up")
            if not db.execute(sa.text(_BEAT), {"epoch": self._epoch}).rowcount:
                raise UnavailableError("another orchestrator leads")
            db.commit()

    def hang_up(self) -> None:
        """Ends the session, also while a thread waits for an answer that never comes."""
        self._over = True
        hang_up(self._raw)

    def close(self) -> None:
        """Hangs up, which ends the lead, and closes the connection. Idempotent."""
        self.hang_up()
        # Whoever still connects sees that it is over and closes by itself.
        if self._busy.acquire(timeout=_CLOSING_S):
            try:
                self._drop()
            finally:
                self._busy.release()

    def _contend(self, holder: str, silent_s: float) -> bool:
        db = self._db = self._engine.connect()
        self._raw = db.connection.driver_connection
        if self._over:
            return False
        if self._scalar("SELECT pg_try_advisory_lock(:space, :site)"):
            now_s = float(db.execute(sa.text(f"SELECT {_NOW}")).scalar_one())
            self._epoch = take_lead(db, holder, now_s)
            db.commit()
            return True
        silence_s = db.execute(sa.text(_SILENCE)).scalar()
        if silence_s is not None and silence_s >= silent_s:
            self._scalar(_CUT_OFF, silent_s=silent_s)
        db.commit()
        return False

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.invalidate()
            db.close()

    def _scalar(self, query: str, **values: Any) -> Any:
        assert self._db is not None
        return self._db.execute(
            sa.text(query), {"space": _LOCK_SPACE, "site": self._site, **values}
        ).scalar_one()
