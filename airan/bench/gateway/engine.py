"""A simulated engine: it sends tokens at an even pace, and each says when it was sent.

It speaks llama.cpp's HTTP interface, the engine agent's state and OpenAI's chat completions, so
that every gateway, and a client without one, can be put before it. A token's text is ` tNNN`, the
nanoseconds on this machine's monotonic clock; the first has ` rNNN` before it, when the request
came in. Run as `python -m airan.bench.gateway.engine TOKEN_MS`; prints its port.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

MODEL = "simulated"
N_SLOTS = 512
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class SimulatedEngine:
    """Answers on loopback; `token_s` between two tokens, 0 for as fast as it goes."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s
        self.port = 0

    async def serve(self) -> None:
        """Prints the port and answers until cancelled."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        print(self.port, flush=True)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                received_ns = time.monotonic_ns()
                found = _LENGTH.search(head)
                body = await reader.readexactly(int(found[1])) if found else b""
                path = head.split(b" ", 2)[1].decode()
                await self._answer(path, body, received_ns, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, path: str, body: bytes, received_ns: int, writer: asyncio.StreamWriter
    ) -> None:
        if path == "/state/watch":
            await _stream(writer, self._states())
        elif path == "/completion":
            n_tokens = int(json.loads(body)["n_predict"])
            await _stream(writer, self._completion(n_tokens, received_ns))
        elif path == "/v1/chat/completions":
            await self._chat(json.loads(body), received_ns, writer)
        else:
            _send(writer, _plain(path, body))
            await writer.drain()

    async def _states(self) -> AsyncIterator[dict[str, Any]]:
        state = {
            "name": "simulated",
            "model": MODEL,
            "phase": "ready",
            "version": 1,
            "lease_id": "lease-1",
            "sm_count": 132,
            "url": f"http://127.0.0.1:{self.port}",
            "max_concurrent": N_SLOTS,
            "n_slots": N_SLOTS,
            "n_ctx": 4096,
        }
        while True:
            yield state
            await asyncio.sleep(1.0)

    async def _texts(self, n_tokens: int, received_ns: int) -> AsyncIterator[str]:
        begun_s = asyncio.get_running_loop().time()
        for number in range(n_tokens):
            if self._token_s:
                due_s = begun_s + (number + 1) * self._token_s
                await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            text = f" t{time.monotonic_ns()}"
            yield f" r{received_ns}{text}" if number == 0 else text

    async def _completion(self, n_tokens: int, received_ns: int) -> AsyncIterator[dict[str, Any]]:
        number = 0
        async for text in self._texts(n_tokens, received_ns):
            number += 1
            yield {"content": text, "tokens": [7], "tokens_predicted": number, "stop": False}
        yield {
            "content": "",
            "tokens": [],
            "tokens_predicted": number,
            "stop": True,
            "stop_type": "limit",
        }

    async def _chat(
        self, body: dict[str, Any], received_ns: int, writer: asyncio.StreamWriter
    ) -> None:
        n_tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        base = {"id": "chatcmpl-simulated", "created": 1, "model": MODEL}
        usage = {"prompt_tokens": 8, "completion_tokens": n_tokens, "total_tokens": 8 + n_tokens}
        if not body.get("stream"):
            text = "".join([one async for one in self._texts(n_tokens, received_ns)])
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            whole = base | {"object": "chat.completion", "choices": [choice], "usage": usage}
            _send(writer, whole)
            await writer.drain()
            return

        async def chunks() -> AsyncIterator[dict[str, Any]]:
            start = base | {"object": "chat.completion.chunk"}
            async for text in self._texts(n_tokens, received_ns):
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
                yield start | {"choices": [choice]}
            yield start | {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
            yield start | {"choices": [], "usage": usage}

        await _stream(writer, chunks(), end=b"data: [DONE]\n\n")


def _plain(path: str, body: bytes) -> dict[str, Any]:
    if path == "/apply-template":
        return {"prompt": json.loads(body)["messages"][-1]["content"]}
    if path == "/tokenize":
        return {"tokens": [1] * (1 + len(json.loads(body)["content"]) // 4)}
    if path == "/v1/models":
        return {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
    return {"status": "ok"}


def _send(writer: asyncio.StreamWriter, values: dict[str, Any]) -> None:
    body = json.dumps(values).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)


async def _stream(
    writer: asyncio.StreamWriter, items: AsyncIterator[dict[str, Any]], end: bytes = b""
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
    writer.write(head + b"\r\n\r\n")
    async for item in items:
        _write_chunk(writer, b"data: " + json.dumps(item).encode() + b"\n\n")
        await writer.drain()
    if end:
        _write_chunk(writer, end)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


if __name__ == "__main__":
    asyncio.run(SimulatedEngine(float(sys.argv[1]) / 1000.0).serve())
