"""OpenAI's files: /v1/files. A tenant sees its own; the content lies under the state folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.gateway.errors import ApiError
from marketplace.gateway.reading import read_bytes
from marketplace.gateway.runtime import Runtime
from marketplace.store.accounts import Principal

_OVERHEAD_BYTES = 64 << 10
_MAX_NAME = 256
_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?', re.IGNORECASE)
_PARAMETER = re.compile(r'\b(name|filename)="((?:[^"\\]|\\.)*)"')


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/files."""
    router = APIRouter(prefix="/v1/files", tags=["openai"])

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        principal = await runtime.authenticate(request, "files")
        parts = await _read_form(request, runtime.settings.max_file_bytes)
        purpose = parts.get("purpose", (None, b""))[1].decode(errors="replace")
        if purpose != "batch":
            raise InvalidInputError("purpose", f"must be 'batch' here, got {purpose[:40]!r}")
        if "file" not in parts:
            raise InvalidInputError("file", "is required")
        name, content = parts["file"]
        if len(content) > runtime.settings.max_file_bytes:
            raise ApiError(413, f"The file is longer than {runtime.settings.max_file_bytes} bytes.")
        row = await save_file(runtime, principal.tenant_id, purpose, name or "file", content)
        return file_object(row)

    @router.get("")
    async def list_files(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> dict[str, Any]:
        principal = await runtime.authenticate(request, "files")
        store = runtime.db.batches
        rows = await runtime.db.call(
            store.list_files, principal.tenant_id, limit + 1, after, order == "desc"
        )
        data = [file_object(row) for row in rows if purpose in (None, row["purpose"])]
        return page(data, limit)

    @router.get("/{file_id}")
    async def retrieve(file_id: str, request: Request) -> dict[str, Any]:
        return file_object(
            await _find(runtime, await runtime.authenticate(request, "files"), file_id)
        )

    @router.get("/{file_id}/content")
    async def content(file_id: str, request: Request) -> Response:
        row = await _find(runtime, await runtime.authenticate(request, "files"), file_id)
        return FileResponse(content_path(runtime, row["id"]), media_type="application/octet-stream")

    @router.delete("/{file_id}")
    async def delete(file_id: str, request: Request) -> dict[str, Any]:
        principal = await runtime.authenticate(request, "files")
        await _find(runtime, principal, file_id)
        await runtime.db.call(runtime.db.batches.delete_file, file_id, principal.tenant_id)
        await asyncio.to_thread(content_path(runtime, file_id).unlink, missing_ok=True)
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def content_path(runtime: Runtime, file_id: str) -> Path:
    """Where a file's content lies; the name gives nothing away."""
    return runtime.settings.state_dir / "files" / hashlib.sha256(file_id.encode()).hexdigest()


async def save_file(
    runtime: Runtime, tenant_id: str, purpose: str, name: str, content: bytes
) -> dict[str, Any]:
    """Writes the content, then the row: a row without its content cannot be."""
    file_id = "file-" + secrets.token_hex(12)
    await asyncio.to_thread(_write, content_path(runtime, file_id), content)
    row = {
        "id": file_id,
        "tenant_id": tenant_id,
        "purpose": purpose,
        "filename": "".join(filter(str.isprintable, name))[:_MAX_NAME] or "file",
        "size_bytes": len(content),
        "created_s": runtime.clock.now_s(),
    }
    await runtime.db.call(runtime.db.batches.add_file, row)
    return row


def file_object(row: dict[str, Any]) -> dict[str, Any]:
    """A file in OpenAI's form."""
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["size_bytes"],
        "created_at": int(row["created_s"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
    }


def page(data: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of at most `limit`, from a list with one more if there is more."""
    shown = data[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(data) > limit,
    }


async def _find(runtime: Runtime, principal: Principal, file_id: str) -> dict[str, Any]:
    row = await runtime.db.call(runtime.db.batches.file, file_id, principal.tenant_id)
    if row is None:
        raise ApiError(404, f"No such file: {file_id!r}.", param="file_id")
    return row


async def _read_form(request: Request, limit_bytes: int) -> dict[str, tuple[str | None, bytes]]:
    """The parts of a multipart form by name: file name and content."""
    kind = request.headers.get("content-type", "")
    found = _BOUNDARY.search(kind)
    if not kind.lower().startswith("multipart/form-data") or found is None:
        raise ApiError(415, "The body must be multipart/form-data with a boundary.")
    body = await read_bytes(request, limit_bytes + _OVERHEAD_BYTES)
    pieces = (b"\r\n" + body).split(b"\r\n--" + found[1].encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ApiError(400, "The multipart body is not complete.", code="invalid_form")
    parts = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        disposition = dict(_PARAMETER.findall(head.decode(errors="replace")))
        if "name" in disposition:
            parts[disposition["name"]] = (disposition.get("filename"), content)
    return parts


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
