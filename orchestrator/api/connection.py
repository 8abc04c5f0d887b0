"""A connection to one control plane: our errors, pages read to their end, watches that go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from airan.core.errors import RetryableError
from orchestrator.api import control_pb2_grpc as rpc
from orchestrator.api.convert import from_message
from orchestrator.api.errors import from_rpc
from orchestrator.api.paging import MAX_SIZE
from orchestrator.api.security import TlsFiles, channel_credentials

T = TypeVar("T")

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 1.0
# A control plane that was killed is back within seconds; gRPC's own back-off of up to two
# minutes would keep the channel dead long after.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


class Connection:
    """Opened on first use; belongs to one event loop."""

    def __init__(
        self, address: str, *, timeout_s: float = 5.0, tls: TlsFiles | None = None
    ) -> None:
        self.address = address
        self._timeout_s, self._tls = timeout_s, tls
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    @property
    def _peer(self) -> str:
        return f"control plane at {self.address}"

    def _open(self) -> grpc.aio.Channel:
        # Made on first use, because it binds to the running event loop.
        if self._channel is None:
            if self._tls is None:
                self._channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
            else:
                credentials = channel_credentials(self._tls)
                self._channel = grpc.aio.secure_channel(
                    self.address, credentials, options=_CHANNEL_OPTIONS
                )
        return self._channel

    def _site(self) -> Any:
        return rpc.SiteServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _policy(self) -> Any:
        return rpc.PolicyServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _cell(self) -> Any:
        return rpc.CellServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _capacity(self) -> Any:
        return rpc.CapacityServiceStub(self._open())  # type: ignore[no-untyped-call]

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._peer) from error

    async def _list(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Any,
        kind: type[T],
        limit: int | None = None,
    ) -> list[T]:
        """Every item of a list, page by page; at most `limit`, if it is given."""
        found: list[T] = []
        while True:
            left = MAX_SIZE if limit is None else limit - len(found)
            request.page_size = min(max(left, 1), MAX_SIZE)
            reply = await self._call(method, request)
            # The items are the first field of every list's response.
            items = getattr(reply, reply.DESCRIPTOR.fields[0].name)
            found += [from_message(kind, item) for item in items]
            request.page_token = reply.next_page_token
            if not request.page_token or (limit is not None and len(found) >= limit):
                return found[:limit]

    async def _watch(self, start: Callable[[], Any], part: str, kind: type[T]) -> AsyncIterator[T]:
        """What the field `part` of every message holds; starts again after retryable errors."""
        retry_s = FIRST_RETRY_S
        while True:
            call = start()
            try:
                async for message in call:
                    retry_s = FIRST_RETRY_S
                    yield from_message(kind, getattr(message, part))
            except grpc.aio.AioRpcError as error:
                ours = from_rpc(error, self._peer)
                if not isinstance(ours, RetryableError):
                    raise ours from error
            finally:
                call.cancel()
            await asyncio.sleep(retry_s)
            retry_s = min(LAST_RETRY_S, retry_s * 2)
