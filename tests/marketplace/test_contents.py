"""What files hold, beside SQLite in a folder and in PostgreSQL: one contract for both."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airan.core.errors import NotFoundError, UnavailableError
from marketplace.gateway.errors import ApiError
from marketplace.gateway.files_api import split_form
from marketplace.store.accounts import Accounts
from marketplace.store.batches import Batches
from marketplace.store.connect import open_database
from marketplace.store.contents import (
    CHUNK_BYTES,
    FileContents,
    FolderContents,
    contents_of,
    path_in,
)
from marketplace.store.schema import file_chunks

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 4096 * 2 + b"and some more"
DYING = """
import sys
import sqlalchemy as sa
from pathlib import Path
from marketplace.store.connect import open_database
from marketplace.store.contents import contents_of

url, folder, tenant_id = sys.argv[1:]
seen = []

def hang(connection, cursor, statement, *rest):
    if statement.startswith("INSERT INTO file"):
        seen.append(statement)
    if len(seen) == (1 if url.startswith("sqlite") else 3):
        print("within", flush=True)
        sys.stdin.read()

engine = open_database(url)
sa.event.listen(engine, "before_cursor_execute", hang)
row = {"id": "file-1", "tenant_id": tenant_id, "purpose": "batch", "filename": "a"}
row |= {"size_bytes": 3 << 20, "created_s": 1.0}
contents_of(engine, Path(folder)).add(row, bytes(3 << 20))
"""


@dataclass
class Shelf:
    url: str
    folder: Path
    engine: sa.Engine
    contents: FileContents
    tenant_id: str

    def row(self, file_id: str = "file-1", content: bytes | bytearray = CONTENT) -> dict[str, Any]:
        row = {"id": file_id, "tenant_id": self.tenant_id, "purpose": "batch", "filename": "a"}
        return row | {"size_bytes": len(content), "created_s": 1.0}

    def read(self, file_id: str = "file-1") -> bytes:
        return b"".join(self.contents.pieces(file_id))

    def kept(self) -> list[object]:
        """All that is there: rows, chunks, files in the folder."""
        rows = Batches(self.engine).list_files(self.tenant_id, 100, None, newest_first=True)
        with self.engine.connect() as db:
            chunks = db.execute(sa.select(file_chunks.c.file_id)).scalars().all()
        there = self.folder.iterdir() if self.folder.exists() else ()
        return [*(row["id"] for row in rows), *chunks, *(path.name for path in there)]


@pytest.fixture
def shelf(database_url: str, tmp_path: Path) -> Iterator[Shelf]:
    engine = open_database(database_url)
    tenant_id = str(Accounts(engine).create_tenant("acme", 0.0)["id"])
    folder = tmp_path / "files"
    yield Shelf(database_url, folder, engine, contents_of(engine, folder), tenant_id)
    engine.dispose()


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(CHUNK_BYTES), CONTENT], ids=["nothing", "little", "one", "three"]
)
def test_what_is_kept_is_read_again_and_deleted_with_its_row(shelf: Shelf, content: bytes) -> None:
    shelf.contents.add(shelf.row(content=content), memoryview(content))
    pieces = list(shelf.contents.pieces("file-1"))
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)
    assert not shelf.contents.delete("file-1", "ten_other")
    assert shelf.read() == content
    assert shelf.contents.delete("file-1", shelf.tenant_id)
    assert not shelf.contents.delete("file-1", shelf.tenant_id)
    with pytest.raises(NotFoundError):
        shelf.contents.pieces("file-1")
    assert shelf.kept() == []


def test_a_file_is_not_another(shelf: Shelf) -> None:
    shelf.contents.add(shelf.row("file-1"), CONTENT)
    shelf.contents.add(shelf.row("file-2", b"other"), b"other")
    shelf.contents.delete("file-1", shelf.tenant_id)
    assert shelf.read("file-2") == b"other"


def test_what_cannot_be_kept_leaves_nothing(shelf: Shelf) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        shelf.contents.add(shelf.row() | {"tenant_id": "nobody"}, CONTENT)
    assert shelf.kept() == []


def test_a_crash_while_it_is_kept_leaves_nothing_after_the_next_start(shelf: Shelf) -> None:
    shelf.contents.add(shelf.row("file-0"), CONTENT)
    before = shelf.kept()
    command = [sys.executable, "-c", DYING, shelf.url, str(shelf.folder), shelf.tenant_id]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "within\n"
        dying.kill()
    rows = Batches(shelf.engine).list_files(shelf.tenant_id, 100, None, newest_first=True)
    assert [row["id"] for row in rows] == ["file-0"]
    shelf.contents.settle()
    assert shelf.kept() == before
    assert shelf.read("file-0") == CONTENT


def test_a_large_file_is_neither_written_nor_read_whole_in_memory(shelf: Shelf) -> None:
    content = bytes(24 << 20)
    tracemalloc.start()
    try:
        shelf.contents.add(shelf.row(content=content), content)
        n_bytes = sum(map(len, shelf.contents.pieces("file-1")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_bytes == len(content)
    assert peak < 8 << 20


def test_nothing_of_a_file_stays_in_memory_once_it_is_kept(shelf: Shelf) -> None:
    content = bytearray(3 << 20)
    shelf.contents.add(shelf.row(content=content), content)
    # It could not be emptied while anybody looks at a part of it.
    content.clear()
    assert len(shelf.read()) == 3 << 20


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'market.db'}")
    (tmp_path / "files").write_text("in the way")
    with pytest.raises(UnavailableError, match="cannot be kept"):
        FolderContents(engine, tmp_path / "files").add({"id": "file-1"}, CONTENT)
    engine.dispose()


def test_what_an_earlier_airan_kept_beside_postgresql_is_taken_over(
    postgres_url: str, tmp_path: Path
) -> None:
    engine = open_database(postgres_url)
    tenant_id = str(Accounts(engine).create_tenant("acme", 0.0)["id"])
    shelf = Shelf(postgres_url, tmp_path, engine, contents_of(engine, tmp_path), tenant_id)
    shelf.contents.add(shelf.row(content=b""), b"")
    path_in(tmp_path, "file-1").write_bytes(CONTENT)
    with engine.begin() as db:
        db.execute(sa.text(f"UPDATE files SET size_bytes = {len(CONTENT)}"))
    path_in(tmp_path, "file-of-another-database").write_bytes(b"stays")
    shelf.contents.settle()
    assert shelf.read() == CONTENT
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"stays"]
    shelf.contents.settle()
    assert shelf.read() == CONTENT
    engine.dispose()


def form(*parts: bytes, end: bytes = b"--") -> bytes:
    return b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge" + end


def test_the_parts_of_a_form_are_views_of_it() -> None:
    head = b'Content-Disposition: form-data; name="%s"'
    file = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    body = form(head % b"purpose" + b"\r\n\r\nbatch", file + b"\r\n--e\r\n", b"nameless")
    for before in (b"", b"\r\n", b"said to nobody\r\n"):
        parts = split_form(bytearray(before + body), b"edge")
        assert {name: (one[0], bytes(one[1])) for name, one in parts.items()} == {
            "purpose": (None, b"batch"),
            "file": ("a.jsonl", b"--e\r\n"),
        }
        assert isinstance(parts["file"][1], memoryview)


@pytest.mark.parametrize("body", [b"", b"--", form(b"", end=b""), form(b"", end=b"\r\nx"), b"x"])
def test_a_form_that_ends_too_early_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="not complete"):
        split_form(body, b"edge")
