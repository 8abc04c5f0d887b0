"""OpenAI's files: /v1/files. A tenant sees its own."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from airan.core.errors import InvalidInputError
from marketplace.gateway.errors import ApiError
from marketplace.gateway.reading import read_buffer
from marketplace.gateway.runtime import Runtime
from marketplace.store.accounts import Principal
from marketplace.store.contents import Content

_OVERHEAD_BYTES = 64 << 10
_MAX_NAME = 256
_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?', re.IGNORECASE)
_PARAMETER = re.compile(r'\b(name|filename)="((?:[^"\\]|\\.)*)"')


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/files."""
    router = APIRouter(prefix="/v1/files", tags=["openai"])

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        principal = await runtime.door.authenticate(request, "files")
        parts = await _read_form(request, runtime.settings.max_file_bytes)
        purpose = bytes(parts.get("purpose", (None, b""))[1][:_MAX_NAME]).decode(errors="replace")
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
        principal = await runtime.door.authenticate(request, "files")
        store = runtime.db.batches
        rows = await runtime.db.call(
            store.list_files, principal.tenant_id, limit + 1, after, order == "desc"
        )
        data = [file_object(row) for row in rows if purpose in (None, row["purpose"])]
        return page(data, limit)

    @router.get("/{file_id}")
    async def retrieve(file_id: str, request: Request) -> dict[str, Any]:
        return file_object(
            await _find(runtime, await runtime.door.authenticate(request, "files"), file_id)
        )

    @router.get("/{file_id}/content")
    async def content(file_id: str, request: Request) -> Response:
        row = await _find(runtime, await runtime.door.authenticate(request, "files"), file_id)
        pieces = await runtime.db.aside(runtime.contents.pieces, row["id"])
        headers = {"Content-Length": str(row["size_bytes"])}
        return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")

    @router.delete("/{file_id}")
    async def delete(file_id: str, request: Request) -> dict[str, Any]:
        principal = await runtime.door.authenticate(request, "files")
        await _find(runtime, principal, file_id)
        await runtime.db.aside(runtime.contents.delete, file_id, principal.tenant_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return router


async def save_file(
    runtime: Runtime, tenant_id: str, purpose: str, name: str, content: Content
) -> dict[str, Any]:
    """Keeps a new file; its row."""
    row = {
        "id": "file-" + secrets.token_hex(12),
        "tenant_id": tenant_id,
        "purpose": purpose,
        "filename": "".join(filter(str.isprintable, name))[:_MAX_NAME] or "file",
        "size_bytes": len(content),
        "created_s": runtime.clock.now_s(),
    }
    await runtime.db.aside(runtime.contents.add, row, content)
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


async def _read_form(request: Request, limit_bytes: int) -> dict[str, tuple[str | None, Content]]:
    """The parts of a multipart form by name: file name and content."""
    kind = request.headers.get("content-type", "")
    found = _BOUNDARY.search(kind)
    if not kind.lower().startswith("multipart/form-data") or found is None:
        raise ApiError(415, "The body must be multipart/form-data with a boundary.")
    body = await read_buffer(request, limit_bytes + _OVERHEAD_BYTES)
    return split_form(body, found[1].encode())


def split_form(body: bytes | bytearray, boundary: bytes) -> dict[str, tuple[str | None, Content]]:
    """The parts of a multipart body by name: file name and content, as views of the body.

    Raises:
        ApiError: 400, it does not end as it should.
    """
    limit = b"\r\n--" + boundary
    view = memoryview(body)
    parts: dict[str, tuple[str | None, Content]] = {}
    # Before the first boundary is nothing, not even a line's end, or text that is nobody's.
    opening = -2 if body.startswith(limit[2:]) else body.find(limit)
    if opening == -1:
        raise _not_complete()
    start = opening + len(limit)
    while not body.startswith(b"--", start):
        end = body.find(limit, start)
        if end < 0:
            raise _not_complete()
        split = body.find(b"\r\n\r\n", start, end)
        head = body[start : end if split < 0 else split]
        disposition = dict(_PARAMETER.findall(head.decode(errors="replace")))
        if "name" in disposition:
            content = view[split + 4 : end] if split >= 0 else b""
            parts[disposition["name"]] = (disposition.get("filename"), content)
        start = end + len(limit)
    return parts


def _not_complete() -> ApiError:
    return ApiError(400, "The multipart body is not complete.", code="invalid_form")
