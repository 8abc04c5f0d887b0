"""What tenants' files hold: in PostgreSQL, so that each gateway reads what another took in, or,
beside SQLite, in a folder. All calls are blocking and safe from several threads; they move
megabytes, so the store's own thread is not for them (`Database.aside`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from airan.core.errors import NotFoundError, UnavailableError
from marketplace.store.connect import reading, writing
from marketplace.store.schema import file_chunks, files

CHUNK_BYTES = 1 << 20
Content = bytes | bytearray | memoryview
_NEW = ".new-"


class FileContents(Protocol):
    """The files with their contents; a row never is without."""

    def add(self, row: dict[str, Any], content: Content) -> None:
        """Keeps the content and the row; a crash within leaves nothing that anybody sees."""

    def pieces(self, file_id: str) -> Iterator[bytes]:
        """The content piece by piece, so that a large one is never in memory whole.

        Raises:
            NotFoundError: the file is not there, or, while it is read, not any more.
        """

    def delete(self, file_id: str, tenant_id: str) -> bool:
        """Deletes the tenant's file, row and content; False if there is none."""

    def settle(self) -> None:
        """Puts right what an earlier gateway left; before anything else of this one's life."""


def contents_of(engine: sa.Engine, folder: Path) -> FileContents:
    """Where the contents of that database's files are; `folder`: of those beside SQLite."""
    if engine.dialect.name == "postgresql":
        return ChunkedContents(engine, folder)
    return FolderContents(engine, folder)


class FolderContents:
    """A file each in a folder that one gateway has for itself."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def add(self, row: dict[str, Any], content: Content) -> None:
        """Writes the content, then the row.

        Raises:
            UnavailableError: the folder cannot be written.
        """
        path = path_in(self._folder, row["id"])
        try:
            _write(path, content)
        except OSError as error:
            text = f"the file cannot be kept: {error.strerror}"
            raise UnavailableError(text, remedy="tell the operator") from error
        try:
            with writing(self._engine) as db:
                db.execute(sa.insert(files).values(row))
        except sa.exc.SQLAlchemyError:
            path.unlink(missing_ok=True)
            raise

    def pieces(self, file_id: str) -> Iterator[bytes]:
        """The content piece by piece.

        Raises:
            NotFoundError: the file is not there.
        """
        path = path_in(self._folder, file_id)
        if not path.exists():
            raise _gone(file_id)
        return _read(path)

    def delete(self, file_id: str, tenant_id: str) -> bool:
        """Deletes the row, then the content."""
        if not _delete_row(self._engine, file_id, tenant_id):
            return False
        path_in(self._folder, file_id).unlink(missing_ok=True)
        return True

    def settle(self) -> None:
        """Deletes contents that have no row: a gateway ended before it was written, or after it
        was deleted."""
        if not self._folder.is_dir():
            return
        with reading(self._engine) as db:
            known = {
                path_in(self._folder, one) for one in db.execute(sa.select(files.c.id)).scalars()
            }
        for path in self._folder.iterdir():
            if path not in known:
                path.unlink(missing_ok=True)


class ChunkedContents:
    """Rows of at most a MiB each in the database, written and deleted with the file's own."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def add(self, row: dict[str, Any], content: Content) -> None:
        """Stores both in one transaction."""
        with writing(self._engine) as db:
            db.execute(sa.insert(files).values(row))
            _insert_chunks(db, row["id"], _pieces_of(content))

    def pieces(self, file_id: str) -> Iterator[bytes]:
        """The content piece by piece; no connection is kept while a piece is used.

        Raises:
            NotFoundError: the file is not there, or, while it is read, not any more.
        """
        query = sa.select(files.c.size_bytes).where(files.c.id == file_id)
        with reading(self._engine) as db:
            size_bytes = db.execute(query).scalar()
        if size_bytes is None:
            raise _gone(file_id)
        return self._chunks(file_id, -(-size_bytes // CHUNK_BYTES))

    def delete(self, file_id: str, tenant_id: str) -> bool:
        """Deletes the row, and the chunks with it."""
        return _delete_row(self._engine, file_id, tenant_id)

    def settle(self) -> None:
        """Takes over what an earlier airan kept in the state folder of files of this database."""
        if not self._folder.is_dir():
            return
        chunked = sa.exists().where(file_chunks.c.file_id == files.c.id)
        with reading(self._engine) as db:
            ids = db.execute(sa.select(files.c.id).where(~chunked)).scalars().all()
        for file_id in ids:
            path = path_in(self._folder, file_id)
            if not path.exists():
                continue
            with writing(self._engine) as db:
                # Of several gateways that start at once, one does it.
                mine = sa.select(files.c.id).where(files.c.id == file_id, ~chunked)
                if db.execute(mine.with_for_update()).first() is not None:
                    _insert_chunks(db, file_id, _read(path))
            path.unlink(missing_ok=True)

    def _chunks(self, file_id: str, n_chunks: int) -> Iterator[bytes]:
        for number in range(n_chunks):
            query = sa.select(file_chunks.c.content).where(
                file_chunks.c.file_id == file_id, file_chunks.c.number == number
            )
            with reading(self._engine) as db:
                chunk = db.execute(query).scalar()
            if chunk is None:
                raise _gone(file_id)
            yield chunk


def path_in(folder: Path, file_id: str) -> Path:
    """Where a file's content lies in a folder; the name gives nothing away."""
    return folder / hashlib.sha256(file_id.encode()).hexdigest()


def _insert_chunks(db: sa.Connection, file_id: str, pieces: Iterator[Content]) -> None:
    for number, piece in enumerate(pieces):
        # The driver keeps what it sent last: not a view, and with it the whole.
        row = {"file_id": file_id, "number": number, "content": bytes(piece)}
        db.execute(sa.insert(file_chunks).values(row))


def _delete_row(engine: sa.Engine, file_id: str, tenant_id: str) -> bool:
    query = sa.delete(files).where(files.c.id == file_id, files.c.tenant_id == tenant_id)
    with writing(engine) as db:
        return db.execute(query).rowcount > 0


def _pieces_of(content: Content) -> Iterator[Content]:
    """Views of the content, which is not copied."""
    view = memoryview(content)
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_NEW, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def _gone(file_id: str) -> NotFoundError:
    return NotFoundError(f"file {file_id!r} does not exist")
