"""The outermost layer: request ids, response counts, and an answer to every error."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.billing.desk import rate_limit
from marketplace.gateway.errors import ApiError

log = logging.getLogger(__name__)

_HEADER = "x-request-id"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class EdgeMiddleware:
    """Plain ASGI, because a stream must pass through it untouched."""

    def __init__(self, app: ASGIApp, count: Callable[[int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        started = False
        rate_limit.set(None)

        async def send_marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[_HEADER] = request_id
                self._count(message["status"])
                if (left := rate_limit.get()) is not None:
                    MutableHeaders(scope=message).update(left.headers())
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            log.exception("%s %s failed, request id %s", scope["method"], scope["path"], request_id)
            if started:
                raise
            text = f"The gateway failed; its log has the details under {request_id}."
            await ApiError(500, text, code="internal_error").response()(scope, receive, send_marked)


def request_counter(counter: Any) -> Callable[[int], None]:
    """Counts responses by status in a Prometheus counter with the label `status`."""

    def count(status: int) -> None:
        counter.labels(str(status)).inc()

    return count
