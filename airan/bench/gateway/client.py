"""The load: streams and requests at a given number at once, on raw connections, so that the
client costs little and the same before every gateway."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field

from airan.core.errors import UnavailableError

_SENT = re.compile(rb" t(\d+)")
_RECEIVED = re.compile(rb" r(\d+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """Where to send chat completions."""

    name: str
    port: int
    key: str
    model: str


@dataclass
class Times:
    """What the clients saw; all in milliseconds."""

    first_token_added_ms: list[float] = field(default_factory=list)
    """On the way to the engine and, for the first token, back."""
    token_added_ms: list[float] = field(default_factory=list)
    """From the engine to the client, each token."""
    n_requests: int = 0
    n_failed: int = 0
    wall_s: float = 0.0


def request(target: Target, n_tokens: int, *, stream: bool) -> bytes:
    """An HTTP request for a chat completion."""
    body = json.dumps(
        {
            "model": target.model,
            "messages": [{"role": "user", "content": "Tell me of the sea, in a few words."}],
            "max_tokens": n_tokens,
            "stream": stream,
        }
    ).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{target.port}",
        f"authorization: Bearer {target.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def load(
    target: Target, concurrent: int, n_requests: int, n_tokens: int, *, stream: bool
) -> Times:
    """Keeps `concurrent` requests going until `n_requests` have been sent."""
    times, left = Times(), iter(range(n_requests))
    wanted = request(target, n_tokens, stream=stream)

    async def worker(number: int) -> None:
        # Not all at the same moment, as no clients do.
        await asyncio.sleep(0.003 * number)
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
        try:
            for _ in left:
                await _once(reader, writer, wanted, times)
        finally:
            writer.close()

    begun_s = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(concurrent)))
    times.wall_s = time.perf_counter() - begun_s
    return times


async def _once(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: bytes, times: Times
) -> None:
    sent_ns = time.monotonic_ns()
    writer.write(wanted)
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    times.n_requests += 1
    if found := _LENGTH.search(head):
        body = await reader.readexactly(int(found[1]))
        if status != 200:
            raise UnavailableError(f"the gateway answers {status}: {body[:300].decode()}")
        if not _SENT.search(body):
            times.n_failed += 1
        return
    n_seen = 0
    while data := await _chunk(reader):
        now_ns = time.monotonic_ns()
        if status != 200:
            raise UnavailableError(f"the gateway answers {status}: {data[:300].decode()}")
        for match in _SENT.finditer(data):
            n_seen += 1
            times.token_added_ms.append((now_ns - int(match[1])) / 1e6)
        if received := _RECEIVED.search(data):
            before = int(received[1]) - sent_ns
            first = _SENT.search(data)
            after = now_ns - int(first[1]) if first else 0
            times.first_token_added_ms.append((before + after) / 1e6)
    times.n_failed += n_seen == 0


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of a chunked body; empty at its end."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]
