"""The engine contract, against the real llama.cpp with the real model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airan.core.errors import ModelFileError, UnavailableError
from marketplace.engines.base import Engine, SamplingParams, TokenChunk
from marketplace.engines.host import MOST_ASKING, LlamaHost, LlamaSettings
from marketplace.engines.llamacpp import ASKING, LlamaCppEngine
from tests.marketplace.site import eventually

GLYPHS = [{"role": "user", "content": "Repeat after me exactly: 🦊🦄 naïve 日本語 🏳️‍🌈 ok"}]
STORY = [{"role": "user", "content": "Tell me a story about the sea."}]
# The greedy answer to this does not end by itself.
LONG = [{"role": "user", "content": "Write a very long story."}]
LONG_TOKENS = 1900
AT_ONCE_S = 4.0
"""That long answer takes several times as long on any machine, and a stop far less."""


@pytest.fixture
async def host(model_path: Path) -> AsyncIterator[LlamaHost]:
    host = LlamaHost(LlamaSettings(model_path))
    await host.start()
    yield host
    await host.stop()


@pytest.fixture
async def engine(host: LlamaHost) -> AsyncIterator[Engine]:
    engine = LlamaCppEngine(host.url, prefill_piece_tokens=16)
    yield engine
    await engine.aclose()


async def prompt_ids(engine: Engine, messages: list[dict[str, str]]) -> list[int]:
    return await engine.tokenize(await engine.apply_template(messages), parse_special=True)


async def collect(
    engine: Engine, ids: list[int], params: SamplingParams, slot: int = 0, at_most: int = 10_000
) -> list[TokenChunk]:
    chunks: list[TokenChunk] = []
    stream = engine.generate(ids, params, slot=slot)
    async with contextlib.aclosing(stream):
        async for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == at_most:
                break
    return chunks


def text_of(chunks: list[TokenChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def test_every_token_of_a_character_that_takes_several_is_handed_over(engine: Engine) -> None:
    ids = await prompt_ids(engine, GLYPHS)
    chunks = await collect(engine, ids, SamplingParams(40, temperature=0.0))
    assert "🦊" in text_of(chunks)
    text = [chunk for chunk in chunks if chunk.token_ids]
    assert max(len(chunk.token_ids) for chunk in text) >= 3
    for chunk in text:
        assert len(await engine.tokenize(chunk.text, parse_special=False)) == len(chunk.token_ids)
    assert len(ids_of(chunks)) == text[-1].n_generated


async def test_an_answer_cut_after_any_chunk_goes_on_with_the_same_text(engine: Engine) -> None:
    ids = await prompt_ids(engine, GLYPHS)
    whole = await collect(engine, ids, SamplingParams(30, temperature=0.0))
    for n_before in (1, 2, 5, 9):
        before = await collect(engine, ids, SamplingParams(30, temperature=0.0), at_most=n_before)
        got = ids_of(before)
        after = await collect(engine, ids + got, SamplingParams(30 - len(got), temperature=0.0))
        assert text_of(before) + text_of(after) == text_of(whole)


async def test_the_limit_and_the_end_of_the_answer_are_told_apart(engine: Engine) -> None:
    ids = await prompt_ids(engine, STORY)
    cut = await collect(engine, ids, SamplingParams(3, temperature=0.0))
    assert (cut[-1].finish_reason, cut[-1].n_generated) == ("length", 3)
    ending = await prompt_ids(engine, [{"role": "user", "content": "Answer yes or no: is 1+1=2?"}])
    full = await collect(engine, ending, SamplingParams(200, temperature=0.0))
    assert full[-1].finish_reason == "stop"


async def test_a_character_cut_by_the_limit_is_counted_though_not_delivered(engine: Engine) -> None:
    ids = await prompt_ids(engine, GLYPHS)
    chunks = await collect(engine, ids, SamplingParams(2, temperature=0.0))
    assert text_of(chunks) == ""
    assert (chunks[-1].finish_reason, chunks[-1].n_generated) == ("length", 2)


async def test_closing_a_stream_frees_its_slot_within_moments(
    host: LlamaHost, engine: Engine
) -> None:
    ids = await prompt_ids(engine, LONG)
    await collect(engine, ids, SamplingParams(LONG_TOKENS, temperature=0.0), at_most=5)
    assert await seconds_until_idle(host) < AT_ONCE_S


async def test_a_long_prompt_can_be_stopped_between_two_pieces(
    host: LlamaHost, engine: Engine
) -> None:
    ids = await engine.tokenize("the sea was wide and green " * 200, parse_special=False)
    started_s = time.monotonic()
    await collect(engine, ids, SamplingParams(1), slot=0)
    whole_s = time.monotonic() - started_s
    # Whole, it is some seconds that nothing can cut short. Each slot has the prompt for the first
    # time; one of a few stops counts, as the machine may stand still for a moment.
    stops_s: list[float] = []
    for slot in (1, 2, 3):
        stops_s.append(await stopped_after_s(host, engine, ids, slot))
        if stops_s[-1] < whole_s / 4:
            return
    pytest.fail(f"it goes on for {stops_s} s, and takes {whole_s} s for the whole")


async def stopped_after_s(host: LlamaHost, engine: Engine, ids: list[int], slot: int) -> float:
    """How long llama.cpp goes on with a prompt whose request is cancelled as it begins."""
    task = asyncio.create_task(collect(engine, ids, SamplingParams(5), slot))
    while not await host.running():
        await asyncio.sleep(0.005)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return await seconds_until_idle(host)


async def seconds_until_idle(host: LlamaHost) -> float:
    started_s = time.monotonic()
    while True:
        with contextlib.suppress(UnavailableError):
            if await host.running() == 0:
                break
        await asyncio.sleep(0.005)
    return time.monotonic() - started_s


async def test_four_slots_generate_at_once(engine: Engine) -> None:
    ids = await prompt_ids(engine, STORY)
    params = SamplingParams(8, temperature=0.0)
    answers = await asyncio.gather(*(collect(engine, ids, params, slot) for slot in range(4)))
    assert all(answer[-1].n_generated == 8 for answer in answers)


async def test_the_connections_that_many_gateways_keep_hold_up_no_stream(host: LlamaHost) -> None:
    gateways = [LlamaCppEngine(host.url) for _ in range(MOST_ASKING)]
    ids = await prompt_ids(gateways[0], STORY)
    async with asyncio.timeout(4):  # llama.cpp lets go of an idle connection after 5 s
        async with asyncio.TaskGroup() as asking:
            for one in gateways * ASKING:
                asking.create_task(one.tokenize("Hi", parse_special=False))
        await collect(gateways[0], ids, SamplingParams(2, temperature=0.0))
    for one in gateways:
        await one.aclose()


async def test_a_seed_repeats_a_sampled_answer(engine: Engine) -> None:
    ids = await prompt_ids(engine, STORY)
    params = SamplingParams(16, temperature=1.2, seed=5)
    first, second = await collect(engine, ids, params), await collect(engine, ids, params)
    other = await collect(engine, ids, SamplingParams(16, temperature=1.2, seed=6))
    assert ids_of(first) == ids_of(second) != ids_of(other)


async def test_an_engine_that_stops_breaks_the_stream_as_unavailable(
    host: LlamaHost, engine: Engine
) -> None:
    ids = await prompt_ids(engine, LONG)
    asked = SamplingParams(LONG_TOKENS, temperature=0.0)
    reading = asyncio.create_task(collect(engine, ids, asked))
    while not await host.running():
        await asyncio.sleep(0.01)
    await host.stop()
    with pytest.raises(UnavailableError):
        await reading
    assert not await engine.health()
    with pytest.raises(UnavailableError):
        await engine.tokenize("x", parse_special=False)


async def test_connections_can_be_broken_while_the_server_goes_on(
    host: LlamaHost, engine: Engine
) -> None:
    ids = await prompt_ids(engine, LONG)
    asked = SamplingParams(LONG_TOKENS, temperature=0.0)
    reading = asyncio.create_task(collect(engine, ids, asked))
    while not await host.running():
        await asyncio.sleep(0.01)
    host.disconnect()
    with pytest.raises(UnavailableError):
        await reading
    assert await eventually(engine.health)
    assert await seconds_until_idle(host) < AT_ONCE_S


async def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUFnonsense")
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        await LlamaHost(LlamaSettings(path)).start()
