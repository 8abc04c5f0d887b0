"""`Idempotency-Key` on every POST: a request that is repeated under its key runs once.

The first one runs; its repetition gets the answer that was stored, streams included. While the
first runs, a repetition is answered 409, and with another body 422. A run that failed with 5xx, or
whose client left, may be repeated. What a run makes gets a name that comes from the key (see
`stable_id`), so that a repetition after a crash finds it instead of making it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airan.core.errors import AiranError, UnavailableError
from marketplace.gateway.errors import ApiError, from_airan
from marketplace.gateway.reading import read_bytes
from marketplace.gateway.runtime import Runtime
from marketplace.store.idempotency import Claim, StoredAnswer

log = logging.getLogger(__name__)
T = TypeVar("T")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?', re.IGNORECASE)
_SCOPE_KEY = "airan.idempotency"
_NAMES = uuid.UUID("0b7cf1de-2f5b-45f6-9a3c-5c8d2f1a7e64")
_ADMIN = "admin"
_ADMIN_PATH = "/admin/"
_RETRY_AFTER_S = 1
_MAX_KEPT_BYTES = 16 << 20
_PURGE_S = 3600.0
_FORM_BYTES = 64 << 10
# These answers say that nothing was done yet, so that the same request may do better later.
_PASSING = frozenset({401, 403, 408, 409, 425, 429})
_REDIRECTS = range(300, 400)
_KEPT_HEADERS = ("content-type", "cache-control", "location", "nvcf-reqid", "nvcf-status")


class IdempotencyMiddleware:
    """Plain ASGI, inside the edge and outside the routes."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the request, replays an answer, or refuses."""
        key = None
        if scope["type"] == "http" and scope["method"] == "POST":
            key = Headers(scope=scope).get("idempotency-key")
        if key is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if not _KEY.fullmatch(key):
                raise ApiError(
                    400,
                    "Idempotency-Key: must be 1 to 255 visible ASCII characters.",
                    code="invalid_value",
                    param="Idempotency-Key",
                )
            owner = await self._owner(request)
            body = await read_bytes(request, self._limit(scope["path"]))
            claim = await self._claim(request, owner, key, body)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except AiranError as error:
            await from_airan(error).response()(scope, receive, send)
            return
        if claim.kind == "run":
            run = _Run(self._runtime, owner, key, claim.attempt, body)
            await run(self._app, scope, receive, send)
        else:
            await _without_running(claim, scope, send)

    async def _owner(self, request: Request) -> str:
        if request.url.path.startswith(_ADMIN_PATH):
            self._runtime.door.check_admin(request)
            return _ADMIN
        return (await self._runtime.door.authenticate(request)).tenant_id

    def _limit(self, path: str) -> int:
        settings = self._runtime.settings
        if path.startswith("/v1/files"):
            return settings.max_file_bytes + _FORM_BYTES
        return settings.max_body_bytes

    async def _claim(self, request: Request, owner: str, key: str, body: bytes) -> Claim:
        asked = hashlib.sha256()
        media_type, canonical = _canonical(request.headers.get("content-type", ""), body)
        for part in (request.url.path, request.url.query, media_type):
            asked.update(part.encode() + b"\0")
        asked.update(canonical)
        db, now_s = self._runtime.db, self._runtime.clock.now_s()
        store = db.idempotency
        try:
            return await db.call(store.claim, owner, key, asked.hexdigest(), now_s)
        except UnavailableError:
            # It may be taken all the same, for a run that there is not.
            db.insist_later(owner, store.withdraw, store.withdraw, owner, key, now_s)
            raise


class _Run:
    """One run under a key, from its request to its stored answer."""

    def __init__(self, runtime: Runtime, owner: str, key: str, attempt: int, body: bytes) -> None:
        self._runtime = runtime
        self._owner, self._key, self._attempt = owner, key, attempt
        self._body: bytes | None = body
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._answer = bytearray()
        self._complete = False
        self._left = False
        self._settled = False

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        name = f"{self._owner}\0{self._key}\0{self._attempt}"
        scope[_SCOPE_KEY] = uuid.uuid5(_NAMES, name)

        async def replayed_receive() -> Message:
            if self._body is not None:
                body, self._body = self._body, None
                return {"type": "http.request", "body": body, "more_body": False}
            message = await receive()
            self._left = self._left or message["type"] == "http.disconnect"
            return message

        async def kept_send(message: Message) -> None:
            self._note(message)
            if self._complete and not self._settled:
                # Stored before the client can hear the end of it, and ask again.
                await self._settle()
            await send(message)

        try:
            await app(scope, replayed_receive, kept_send)
        finally:
            if not self._settled:
                # Whatever becomes of the request at hand, its key must not stay taken.
                await asyncio.shield(self._settle())

    def _note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = Headers(raw=message["headers"])
            self._headers = tuple(
                (name, headers[name]) for name in _KEPT_HEADERS if name in headers
            )
        elif message["type"] == "http.response.body":
            if len(self._answer) <= _MAX_KEPT_BYTES:
                self._answer += message.get("body", b"")
            self._complete = not message.get("more_body", False)

    async def _settle(self) -> None:
        self._settled = True
        store = self._runtime.db.idempotency
        headers = dict(self._headers)
        passing = self._status in _PASSING or self._status in _REDIRECTS
        try:
            if self._left or not self._complete or passing:
                # Run again, the request finds what it made: a job to be polled for goes on without
                # its client, and a signed address that expired is signed anew.
                await self._insist(store.reopen, self._attempt)
            elif self._failed(headers):
                await self._insist(store.reopen, self._attempt + 1)
            else:
                answer = StoredAnswer(self._status, self._headers, bytes(self._answer))
                kept = None if self._is_secret(headers) else answer
                await self._insist(store.keep, kept)
        except UnavailableError:
            # The key stays taken, which is the safe side: nothing can be done twice under it.
            log.exception("the answer to an idempotent request could not be stored")

    async def _insist(self, work: Callable[[str, str, T], None], value: T) -> None:
        owner, key = self._owner, self._key
        await self._runtime.db.insist(owner, work, work, owner, key, value)

    def _failed(self, headers: dict[str, str]) -> bool:
        if self._status >= 500:
            return True
        is_stream = headers.get("content-type", "").startswith("text/event-stream")
        return is_stream and _ended_in_error(bytes(self._answer))

    def _is_secret(self, headers: dict[str, str]) -> bool:
        """Keys and secrets are shown once: their answers are not stored, nor are huge ones."""
        too_long = len(self._answer) > _MAX_KEPT_BYTES
        return too_long or self._owner == _ADMIN or "no-store" in headers.get("cache-control", "")


def stable_id(request: Request, what: str) -> uuid.UUID | None:
    """The name of something the request makes, the same in every repetition; None without a key.

    `what` tells apart several things that one request makes.
    """
    base = request.scope.get(_SCOPE_KEY)
    return None if base is None else uuid.uuid5(base, what)


async def purge_regularly(
    runtime: Runtime, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Forgets old keys and old webhooks at once and every hour; runs until it is cancelled."""
    while True:
        runtime.db.post(runtime.db.idempotency.purge, runtime.clock.now_s())
        runtime.db.post(runtime.db.webhooks.purge, runtime.clock.now_s())
        await sleep(_PURGE_S)


async def _without_running(claim: Claim, scope: Scope, send: Send) -> None:
    answer = claim.answer
    if claim.kind == "replay" and answer is not None:
        headers = [*answer.headers, ("idempotent-replayed", "true")]
        if not dict(answer.headers).get("content-type", "").startswith("text/event-stream"):
            headers.append(("content-length", str(len(answer.body))))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})
        return
    await _refusal(claim).response()(scope, _nothing, send)


def _refusal(claim: Claim) -> ApiError:
    # The official client would ask again by itself, and go on asking.
    headers = {"x-should-retry": "false"}
    if claim.kind == "differs":
        text = "This Idempotency-Key was used for another request: use a new one."
        return ApiError(422, text, code="idempotency_key_reused", headers=headers)
    if claim.kind == "unkept":
        text = "This request is done, and its answer is not kept: it was shown once, or too long."
        return ApiError(409, text, code="idempotency_answer_not_kept", headers=headers)
    text = "The first request with this Idempotency-Key is still running: ask again when it ended."
    headers["Retry-After"] = str(_RETRY_AFTER_S)
    return ApiError(409, text, code="idempotency_key_in_use", headers=headers)


def _canonical(content_type: str, body: bytes) -> tuple[str, bytes]:
    """The same JSON in another order or spacing is the same body, and so is a form with another
    boundary, which clients draw anew for each request."""
    media_type = content_type.partition(";")[0].strip().lower()
    boundary = _BOUNDARY.search(content_type)
    if media_type == "multipart/form-data" and boundary is not None:
        return media_type, body.replace(boundary[1].encode(), b"")
    try:
        return media_type, json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        return media_type, body


def _ended_in_error(stream: bytes) -> bool:
    """Whether the last event of the stream tells of a failure."""
    lines = [line for line in stream.split(b"\n") if line.startswith(b"data: {")]
    if not lines or stream.rstrip().endswith(b"data: [DONE]"):
        return not lines
    try:
        last: dict[str, Any] = json.loads(lines[-1][6:])
    except ValueError:
        return True
    return bool(last.get("error")) or last.get("type") in ("error", "response.failed")


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
