"""The client of llama.cpp's server when that goes away under its requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import UnavailableError
from marketplace.engines.base import SamplingParams
from marketplace.engines.llamacpp import LlamaCppEngine
from tests.marketplace.site import running_app


async def test_who_waits_for_a_connection_learns_that_the_engine_is_gone() -> None:
    asked, left = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await reader.read()
        writer.close()
        left.release()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        engine = LlamaCppEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        # Two have a connection each, the others stand behind them.
        asking = [asyncio.create_task(engine.tokenize("a", parse_special=True)) for _ in range(6)]
        for _ in range(2):
            await asked.acquire()
        await engine.aclose()
        assert {type(one) for one in await asyncio.gather(*asking, return_exceptions=True)} == {
            UnavailableError
        }
        for _ in range(2):
            await left.acquire()


async def test_a_closed_client_answers_as_a_lost_engine_does() -> None:
    engine = LlamaCppEngine("http://127.0.0.1:9")
    await engine.aclose()
    with pytest.raises(UnavailableError, match="is gone"):
        await engine.tokenize("a", parse_special=True)
    with pytest.raises(UnavailableError, match="is gone"):
        await anext(engine.generate([1], SamplingParams(1), slot=0))


async def test_a_request_that_is_cancelled_stays_cancelled() -> None:
    never, left = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        never.set()
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        engine = LlamaCppEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        asking = asyncio.create_task(engine.tokenize("a", parse_special=True))
        await never.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        # The server sees it at once, and not only when the client is closed.
        await left.wait()
        await engine.aclose()


async def test_an_idle_connection_that_the_server_closed_is_not_an_error() -> None:
    n_connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"tokens": [1, 2]}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        # It reads the next request, and closes without a word.
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with server:
        engine = LlamaCppEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for _ in range(3):
            assert await engine.tokenize("a", parse_special=True) == [1, 2]
        assert n_connections == 3
        await engine.aclose()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{]}",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
async def test_a_server_that_speaks_nonsense_or_stops_short_is_a_lost_engine(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        engine = LlamaCppEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await engine.tokenize("a", parse_special=True)
        with pytest.raises(UnavailableError):
            await anext(engine.generate([1], SamplingParams(1), slot=0))
        await engine.aclose()


def recording(asked: list[dict[str, Any]]) -> FastAPI:
    """A server that keeps what it is asked, and answers one token."""
    app = FastAPI()

    async def complete(request: Request) -> Response:
        asked.append(await request.json())
        if not asked[-1]["n_predict"]:
            return JSONResponse({})
        values = {"content": "x", "tokens": [7], "tokens_predicted": 1, "stop": False}
        last = values | {"content": "", "tokens": [], "stop": True, "stop_type": "limit"}
        text = "".join(f"data: {json.dumps(one)}\n\n" for one in (values, last))
        return Response(text, media_type="text/event-stream")

    app.add_api_route("/completion", complete, methods=["POST"])
    return app


async def answered(engine: LlamaCppEngine, n_tokens: int, adapter: str = "") -> None:
    prompt, params = list(range(n_tokens)), SamplingParams(1)
    assert [chunk async for chunk in engine.generate(prompt, params, slot=0, adapter=adapter)]


async def test_with_adapters_nothing_is_gone_on_from_where_others_work_too() -> None:
    asked: list[dict[str, Any]] = []
    async with running_app(recording(asked)) as url:
        engine = LlamaCppEngine(url, 4, ["a"])
        for is_alone in (True, False, True):
            engine.share(is_alone=is_alone)
            asked.clear()
            for _ in range(2):
                await answered(engine, 6, "a")
            went_on = [one["cache_prompt"] for one in asked]
            # Alone, piece by piece; the first time it is not known what the slot holds.
            assert went_on == ([False, True, True] if is_alone else [False, False])
        await engine.aclose()


async def test_a_slot_that_somebody_else_used_is_filled_anew_piece_by_piece() -> None:
    asked: list[dict[str, Any]] = []
    async with running_app(recording(asked)) as url:
        engine = LlamaCppEngine(url, 4)
        engine.share(is_alone=False)
        for forgets, lengths in ((False, [4, 8, 10]), (False, [10]), (True, [4, 8, 10])):
            if forgets:
                engine.forget(0)
            asked.clear()
            await answered(engine, 10)
            assert [len(one["prompt"]) for one in asked] == lengths
            assert all(one["cache_prompt"] for one in asked)
        await engine.aclose()
