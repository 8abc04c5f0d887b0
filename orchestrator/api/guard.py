"""Stands before every method of ours: who may call it, for how long, and what is written down.

Reading stops when its caller is gone or its time is up. A change that has begun is finished and
recorded all the same: half a change would be worse than one that nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from airan.core.clock import Clock
from airan.core.errors import AiranError, AuthError, ForbiddenError, UnavailableError
from orchestrator.api.errors import status_of
from orchestrator.api.security import CALLER, CHANGES, ROLE_OF, Caller, caller_of
from orchestrator.views import AuditEntry

PREFIX = "/airan.control.v1."
MAX_UNARY_S = 30.0
"""A call that sets no deadline, or a later one, gets this."""

Context = Any  # grpc.aio.ServicerContext; its type stubs know no trailing metadata of bytes


class AuditLog(Protocol):
    """Where changes are recorded."""

    def add_audit(self, entry: AuditEntry) -> AuditEntry: ...


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Authorises, limits, translates errors, records. Health and reflection pass by."""

    def __init__(self, log: AuditLog, clock: Clock, max_unary_s: float = MAX_UNARY_S) -> None:
        self._log, self._clock, self._max_unary_s = log, clock, max_unary_s
        self._changes: set[asyncio.Future[Any]] = set()

    async def close(self) -> None:
        """Returns when every change that has begun is finished."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wraps our methods; called by gRPC."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(PREFIX):
            return handler
        name = method.removeprefix(PREFIX)
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            answer = self._streaming(name, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(answer, **codec)
        if handler.request_streaming:
            taken = self._taking(name, handler.stream_unary)
            return grpc.stream_unary_rpc_method_handler(taken, **codec)
        unary = self._unary(name, handler.unary_unary)
        return grpc.unary_unary_rpc_method_handler(unary, **codec)

    def _unary(self, name: str, method: Callable[..., Awaitable[Any]]) -> Any:
        async def answer(request: Message, context: Context) -> Any:
            async with _as_status(context):
                return await self._limited(name, method, request, context)

        return answer

    def _taking(self, name: str, method: Callable[..., Awaitable[Any]]) -> Any:
        async def answer(requests: AsyncIterator[Message], context: Context) -> Any:
            async with _as_status(context):
                _admit(name, context)
                return await method(requests, context)

        return answer

    def _streaming(self, name: str, method: Callable[..., Any]) -> Any:
        async def answer(request: Message, context: Context) -> AsyncIterator[Message]:
            async with _as_status(context):
                _admit(name, context)
                async with contextlib.aclosing(method(request, context)) as messages:
                    async for message in messages:
                        yield message

        return answer

    async def _limited(
        self, name: str, method: Callable[..., Awaitable[Any]], request: Message, context: Context
    ) -> Any:
        left_s = context.time_remaining()
        limit_s = self._max_unary_s if left_s is None else min(left_s, self._max_unary_s)
        try:
            async with asyncio.timeout(limit_s) as limit:
                if not _is_change(name, request):
                    self._admit_or_record(name, request, context)
                    return await method(request, context)
                work = self._recorded(name, method, request, context)
                change = asyncio.ensure_future(work)
                self._changes.add(change)
                change.add_done_callback(self._finished)
                return await asyncio.shield(change)
        except TimeoutError as error:
            if not limit.expired():
                raise
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"{name} took longer than {limit_s:g} s"
            )
            raise UnavailableError(f"{name} was aborted") from error

    def _finished(self, change: asyncio.Future[Any]) -> None:
        self._changes.discard(change)
        if not change.cancelled():
            # Seen here, for the case that nobody waits any more.
            change.exception()

    async def _recorded(
        self, name: str, method: Callable[..., Awaitable[Any]], request: Message, context: Context
    ) -> Any:
        caller = self._admit_or_record(name, request, context)
        try:
            response = await method(request, context)
        except Exception as error:
            self._record(caller, name, request, error)
            raise
        self._record(caller, name, request, None)
        return response

    def _admit_or_record(self, name: str, request: Message, context: Context) -> Caller:
        try:
            return _admit(name, context)
        except AuthError as error:
            if _is_change(name, request) or ROLE_OF.get(name) == "admin":
                self._record(_known(context), name, request, error)
            raise

    def _record(self, caller: Caller, name: str, request: Message, error: Exception | None) -> None:
        outcome = "ok" if error is None else "INTERNAL"
        if isinstance(error, AiranError):
            outcome = status_of(error)[0].name
        entry = AuditEntry(
            time_s=self._clock.now_s(),
            actor=caller.actor,
            role=caller.role,
            method=name,
            request=json_format.MessageToJson(
                request, preserving_proto_field_name=True, indent=None
            ),
            outcome=outcome,
            message="" if error is None else str(error),
        )
        self._log.add_audit(entry)


def _is_change(name: str, request: Message) -> bool:
    return name in CHANGES and not getattr(request, "dry_run", False)


def _admit(name: str, context: Context) -> Caller:
    caller = caller_of(context)
    role = ROLE_OF.get(name)
    if role is None:
        raise ForbiddenError(f"nobody may call {name}")
    caller.require(role, name)
    CALLER.set(caller)
    return caller


def _known(context: Context) -> Caller:
    try:
        return caller_of(context)
    except AuthError:
        return Caller("", "")


@contextlib.asynccontextmanager
async def _as_status(context: Context) -> AsyncIterator[None]:
    """Answers our errors as statuses; any other error is a bug, which gRPC logs and reports."""
    try:
        yield
    except AiranError as error:
        code, text, metadata = status_of(error)
        await context.abort(code, text, metadata)
