"""What happened (events) and who did what (audit)."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from orchestrator.store.database import Database
from orchestrator.store.schema import AUDIT, EVENTS
from orchestrator.views import AuditEntry, Event

_ADD_EVENT, _ADD_AUDIT = EVENTS.insert(), AUDIT.insert()


class LogStore:
    """The part of the store that logs are kept in."""

    _database: Database

    def add_event(self, time_s: float, severity: str, kind: str, message: str) -> Event:
        """Appends an event; its `seq` is larger than every one before."""
        row = {"time_s": time_s, "severity": severity, "kind": kind, "message": message}
        with self._database.writing() as db:
            key = db.execute(_ADD_EVENT, row).inserted_primary_key
        assert key is not None
        return Event(seq=key[0], **row)  # type: ignore[arg-type]

    def events(self, after_seq: int, limit: int) -> list[Event]:
        """Events with `seq > after_seq`, oldest first."""
        query = sa.select(EVENTS).where(EVENTS.c.seq > after_seq)
        query = query.order_by(EVENTS.c.seq).limit(limit)
        with self._database.reading() as db:
            return [Event(*row) for row in db.execute(query)]

    def add_audit(self, entry: AuditEntry) -> AuditEntry:
        """Appends to the audit log, which the database lets nobody change; numbers the entry."""
        row = dataclasses.asdict(entry)
        del row["seq"]
        with self._database.writing() as db:
            key = db.execute(_ADD_AUDIT, row).inserted_primary_key
        assert key is not None
        return dataclasses.replace(entry, seq=key[0])

    def audit(
        self, after_seq: int, limit: int, *, actor: str = "", method: str = ""
    ) -> list[AuditEntry]:
        """Entries with `seq > after_seq`, oldest first; on wish of one actor or method."""
        query = sa.select(AUDIT).where(AUDIT.c.seq > after_seq)
        if actor:
            query = query.where(AUDIT.c.actor == actor)
        if method:
            query = query.where(AUDIT.c.method == method)
        with self._database.reading() as db:
            rows = db.execute(query.order_by(AUDIT.c.seq).limit(limit))
            return [AuditEntry(**row._mapping) for row in rows]
