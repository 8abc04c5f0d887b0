"""The sockets that servers listen on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from airan.core.errors import PortInUseError
from marketplace.asgi import bind


async def test_what_is_accepted_sends_at_once() -> None:
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind("127.0.0.1", 0, "a test", "port")
    async with await asyncio.start_server(look, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted
        writer.close()
        await writer.wait_closed()


def test_a_port_is_shared_only_by_those_who_say_so() -> None:
    def listening(port: int, *, shared: bool) -> socket.socket:
        listener = bind("127.0.0.1", port, "a test", "port", shared=shared)
        listener.listen()
        return listener

    several = [listening(0, shared=True)]
    port = several[0].getsockname()[1]
    several.append(listening(port, shared=True))
    with pytest.raises(PortInUseError):
        bind("127.0.0.1", port, "a test", "port")
    for one in several:
        one.close()
    with listening(port, shared=False):
        for shared in (False, True):
            with pytest.raises(PortInUseError):
                bind("127.0.0.1", port, "a test", "port", shared=shared)
