"""HTTP/1.1 to an engine's server, on httptools' parser and nothing around it.

A request to an engine costs a third of what this costs through aiohttp, and each of a tenant's
requests takes three (docs/marketplace.md has the figures). Bodies are JSON; the server has to say
how long its answers are, as llama.cpp's does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import httptools

_CONNECT_S = 30.0
_READ_S = 120.0
"""Without a byte for so long, the server counts as lost."""
_MOST_BUFFERED = 1 << 20
_TRIES = 4
_GONE = "it is gone"


class Wire:
    """Connections to the server at `url`, of the form http://host:port.

    At most `n_asking` are used, and kept for `kept_s` seconds, for questions; each stream has one
    of its own. Everything raises OSError (with TimeoutError) when the server cannot be reached,
    breaks off or speaks no HTTP, and when the wire is closed. One event loop.
    """

    def __init__(self, url: str, *, n_asking: int, kept_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is no http://host:port")
        self._host, self._port = parts.hostname, parts.port or 80
        self._base = parts.path.rstrip("/")
        self._kept_s = kept_s
        self._room = asyncio.Semaphore(n_asking)
        self._idle: deque[tuple[float, _Connection]] = deque()
        self._open: set[_Connection] = set()
        self._closed = False

    async def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The status and the body of an answer; a POST with a body, else a GET.

        Asked again when the server closes the connection before a word of its answer, as it may
        have been about to close an idle one: only what changes nothing may be asked.
        """
        request = self._request(path, body, keep=True)
        async with self._room:
            for tries_left in range(_TRIES - 1, -1, -1):
                connection = self._take() or await self._connect()
                try:
                    connection.send(request)
                    await connection.head()
                    answer = await connection.read()
                except BaseException as error:
                    self._drop(connection)
                    silent = isinstance(error, OSError) and not isinstance(error, TimeoutError)
                    if not silent or connection.heard or not tries_left or self._closed:
                        raise
                    continue
                if connection.reusable and not self._closed:
                    self._idle.append((_now_s(), connection))
                else:
                    self._drop(connection)
                return connection.status, answer
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[Answer]:
        """A POST on a connection of its own, which ends with the block: the server sees it."""
        connection = await self._connect()
        try:
            connection.send(self._request(path, body, keep=False))
            await connection.head()
            yield connection
        finally:
            self._drop(connection)

    def close(self) -> None:
        """Breaks off everything."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._open):
            self._drop(connection)

    def _take(self) -> _Connection | None:
        """A kept connection that is still good; closes those that are not."""
        while self._idle:
            since_s, connection = self._idle.pop()
            if connection.alive and _now_s() - since_s < self._kept_s:
                connection.begin()
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> _Connection:
        self._check_open()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._open.add(connection)
        try:
            self._check_open()
        except OSError:
            self._drop(connection)
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionAbortedError(_GONE)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _request(self, path: str, body: bytes | None, *, keep: bool) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        head = f"{'GET' if body is None else 'POST'} {self._base}{path} HTTP/1.1\r\n"
        head += f"host: {host}:{self._port}\r\nconnection: {'keep-alive' if keep else 'close'}\r\n"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + (body or b"")


class Answer:
    """What a server answers; its body can be read once."""

    status = 0

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        raise NotImplementedError


class _Connection(asyncio.Protocol, Answer):
    """One request after the other; also the answer to the latest."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._wake: asyncio.Future[None] | None = None
        self._error: OSError | None = None
        self._paused = False
        self.begin()

    def begin(self) -> None:
        """Expects another answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._body: deque[bytes] = deque()
        self._n_buffered = 0
        self._has_head = self._complete = self.heard = self.reusable = False

    @property
    def alive(self) -> bool:
        """Whether the server has not closed the connection."""
        return self._error is None and self._transport is not None

    def send(self, request: bytes) -> None:
        """Writes a request.

        Raises:
            OSError: the connection has ended.
        """
        if self._transport is None or self._error is not None:
            raise self._error or ConnectionResetError("the connection has ended")
        self._transport.write(request)

    async def head(self) -> None:
        """Waits until the status is known."""
        while not self._has_head:
            await self._more()

    async def pieces(self) -> AsyncIterator[bytes]:
        """See Answer.pieces."""
        while True:
            while self._body:
                piece = self._body.popleft()
                self._n_buffered -= len(piece)
                yield piece
            if self._complete:
                return
            self._flow()
            await self._more()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end(ConnectionAbortedError(_GONE))

    async def _more(self) -> None:
        """Waits for anything to come."""
        if self._error is not None:
            raise self._error
        self._wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_READ_S):
                await self._wake
        finally:
            self._wake = None

    def _woken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _end(self, error: OSError) -> None:
        self._error = self._error or error
        self._woken()

    def _flow(self) -> None:
        """Has the server wait while too much of its answer lies unread."""
        too_much = self._n_buffered > _MOST_BUFFERED
        if self._transport is None or too_much == self._paused or self._transport.is_closing():
            return
        self._paused = too_much
        (self._transport.pause_reading if too_much else self._transport.resume_reading)()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of a TCP connection it is one; uvloop's are no subclasses.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        error = exc if isinstance(exc, OSError) else None
        self._end(error or ConnectionResetError("it closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ConnectionError(f"it does not speak HTTP: {error}"))
            if self._transport is not None:
                self._transport.abort()
            return
        self._flow()
        self._woken()

    # httptools

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        self._n_buffered += len(data)

    def on_message_complete(self) -> None:
        self._complete = True
        self.reusable = self._parser.should_keep_alive()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
