"""Files and batches as stored. All calls are blocking and safe from several threads."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from marketplace.store.connect import reading, writing
from marketplace.store.presence import check_seated, runs
from marketplace.store.schema import batch_lines, batches, files, responses
from marketplace.store.webhooks import enqueue

OPEN = ("validating", "in_progress", "finalizing", "cancelling")
_BEFORE_THE_END = ("validating", "in_progress", "cancelling")


class Batches:
    """Rows of files, batches and the answers of batches' lines."""

    def __init__(self, engine: Engine, gateway_id: str | None = None) -> None:
        """`gateway_id`: whose batches these are; others' are only cancelled. None: everybody's."""
        self._engine = engine
        self._gateway_id = gateway_id

    def file(self, file_id: str, tenant_id: str) -> dict[str, Any] | None:
        """The tenant's file of that id."""
        return self._one(files, file_id, tenant_id)

    def list_files(
        self, tenant_id: str, limit: int, after: str | None, newest_first: bool
    ) -> list[dict[str, Any]]:
        """The tenant's files that come after the file `after`."""
        return self._page(files, tenant_id, limit, after, newest_first)

    def add_batch(self, row: dict[str, Any]) -> None:
        """Stores a new batch, unless there is one of its id; `document` is a dict.

        Raises:
            UnavailableError: this gateway was given up.
        """
        known = select(batches.c.id).where(batches.c.id == row["id"])
        with writing(self._engine) as db:
            check_seated(db, self._gateway_id)
            if db.execute(known).first() is None:
                db.execute(insert(batches).values(row | {"document": json.dumps(row["document"])}))

    def save_batch(self, document: dict[str, Any], unless: tuple[str, ...] = ()) -> bool:
        """Stores what became of a batch of ours, unless it is in one of those states."""
        query = update(batches).where(
            batches.c.id == document["id"], batches.c.state.not_in(unless)
        )
        if self._gateway_id is not None:
            query = query.where(batches.c.gateway_id == self._gateway_id)
        query = query.values(state=document["status"], document=json.dumps(document))
        with writing(self._engine) as db:
            row = db.execute(query.returning(batches.c.tenant_id)).first()
            if row is not None and document["status"] not in OPEN:
                _announce(db, row.tenant_id, document)
            return row is not None

    def ask_to_cancel(self, document: dict[str, Any]) -> bool:
        """Stores that a batch, whosever it is, is to end; False if it has, or is about to."""
        query = update(batches).where(
            batches.c.id == document["id"], batches.c.state.in_(_BEFORE_THE_END)
        )
        query = query.values(state=document["status"], document=json.dumps(document))
        with writing(self._engine) as db:
            return db.execute(query).rowcount > 0

    def batch(self, batch_id: str, tenant_id: str) -> dict[str, Any] | None:
        """The tenant's batch of that id as its client sees it."""
        row = self._one(batches, batch_id, tenant_id)
        return None if row is None else dict(json.loads(row["document"]))

    def list_batches(self, tenant_id: str, limit: int, after: str | None) -> list[dict[str, Any]]:
        """The tenant's batches, newest first, that come after the batch `after`."""
        rows = self._page(batches, tenant_id, limit, after, newest_first=True)
        return [dict(json.loads(row["document"])) for row in rows]

    def cancelling(self, gateway_id: str) -> list[str]:
        """Ids of the gateway's batches that are to end."""
        mine = (batches.c.gateway_id == gateway_id, batches.c.state == "cancelling")
        with reading(self._engine) as db:
            return list(db.execute(select(batches.c.id).where(*mine)).scalars())

    def add_line(self, batch_id: str, number: int, failed: bool, answer: str) -> None:
        """Stores a line's answer, of a batch of ours; the first one stays."""
        row = {"batch_id": batch_id, "number": number, "failed": int(failed), "answer": answer}
        try:
            with writing(self._engine) as db:
                if runs(db, batches, self._gateway_id, batch_id):
                    db.execute(insert(batch_lines).values(row))
        except IntegrityError:
            return

    def answered(self, batch_id: str) -> dict[int, bool]:
        """The numbers of the lines that have an answer, and whether it is an error."""
        query = select(batch_lines.c.number, batch_lines.c.failed)
        with reading(self._engine) as db:
            rows = db.execute(query.where(batch_lines.c.batch_id == batch_id))
            return {row.number: bool(row.failed) for row in rows}

    def answers(self, batch_id: str, failed: bool) -> list[str]:
        """The lines of the output file, or of the error file, in the input's order."""
        query = select(batch_lines.c.answer).order_by(batch_lines.c.number)
        query = query.where(batch_lines.c.batch_id == batch_id, batch_lines.c.failed == int(failed))
        with reading(self._engine) as db:
            return [str(answer) for answer in db.execute(query).scalars()]

    def keep_response(self, row: dict[str, Any]) -> dict[str, Any]:
        """Stores a response's row, unless there is one of its id; `document` is a dict.

        The document that is stored then.
        """
        query = select(responses.c.document).where(responses.c.id == row["id"])
        with writing(self._engine) as db:
            known = db.execute(query).scalar()
            if known is None:
                known = json.dumps(row["document"])
                db.execute(insert(responses).values(row | {"document": known}))
        document: dict[str, Any] = json.loads(known)
        return document

    def response(self, response_id: str, tenant_id: str) -> dict[str, Any] | None:
        """The tenant's response of that id, `document` as a dict."""
        row = self._one(responses, response_id, tenant_id)
        return None if row is None else row | {"document": json.loads(row["document"])}

    def delete_response(self, response_id: str, tenant_id: str) -> None:
        """Deletes the row, if there is one."""
        query = delete(responses).where(responses.c.id == response_id)
        with writing(self._engine) as db:
            db.execute(query.where(responses.c.tenant_id == tenant_id))

    def _one(self, table: Table, row_id: str, tenant_id: str) -> dict[str, Any] | None:
        # PostgreSQL refuses even to look for a text with a NUL.
        if "\x00" in row_id:
            return None
        query = select(table).where(table.c.id == row_id, table.c.tenant_id == tenant_id)
        with reading(self._engine) as db:
            row = db.execute(query).mappings().first()
        return None if row is None else dict(row)

    def _page(
        self, table: Table, tenant_id: str, limit: int, after: str | None, newest_first: bool
    ) -> list[dict[str, Any]]:
        place = (table.c.created_s, table.c.id)
        query = select(table).where(table.c.tenant_id == tenant_id)
        if after is not None:
            found = self._one(table, after, tenant_id)
            if found is None:
                return []
            here = (found["created_s"], found["id"])
            same = table.c.created_s == here[0]
            if newest_first:
                query = query.where((place[0] < here[0]) | (same & (place[1] < here[1])))
            else:
                query = query.where((place[0] > here[0]) | (same & (place[1] > here[1])))
        order = [column.desc() if newest_first else column.asc() for column in place]
        with reading(self._engine) as db:
            rows = db.execute(query.order_by(*order).limit(limit)).mappings()
            return [dict(row) for row in rows]


def _announce(db: Connection, tenant_id: str, document: dict[str, Any]) -> None:
    """Has webhooks tell that a batch has ended."""
    status = document["status"]
    ended_s = document.get(f"{status}_at") or document["created_at"]
    data = {name: document.get(name) for name in ("id", "status", "output_file_id")}
    data["error_file_id"] = document.get("error_file_id")
    data["request_counts"] = document.get("request_counts")
    enqueue(db, tenant_id, f"batch.{status}", document["id"], data, float(ended_s))
