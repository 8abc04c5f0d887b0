"""The client of llama.cpp's server when that goes away under its requests."""

from __future__ import annotations

import asyncio

import pytest

from airan.core.errors import UnavailableError
from marketplace.engines.base import SamplingParams
from marketplace.engines.llamacpp import LlamaCppEngine


async def test_who_waits_for_a_connection_learns_that_the_engine_is_gone() -> None:
    asked = asyncio.Semaphore(0)

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await reader.read()
        writer.close()

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


async def test_a_closed_client_answers_as_a_lost_engine_does() -> None:
    engine = LlamaCppEngine("http://127.0.0.1:9")
    await engine.aclose()
    with pytest.raises(UnavailableError, match="is gone"):
        await engine.tokenize("a", parse_special=True)
    with pytest.raises(UnavailableError, match="is gone"):
        await anext(engine.generate([1], SamplingParams(1), slot=0))


async def test_a_request_that_is_cancelled_stays_cancelled() -> None:
    never = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        never.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        engine = LlamaCppEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        asking = asyncio.create_task(engine.tokenize("a", parse_special=True))
        await never.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await engine.aclose()
