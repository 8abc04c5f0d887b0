"""LoRA adapters on a real llama.cpp: whose answer it is, and that caches of two never mix."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from airan.core.errors import ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.base import SamplingParams
from marketplace.engines.host import LlamaHost, LlamaSettings
from marketplace.engines.llamacpp import LlamaCppEngine
from tests.marketplace.lora_files import LISTING, RANK, adapter_file

ASKED = [{"role": "user", "content": LISTING}]
N_TOKENS = 40


@pytest.fixture
def adapters(model_path: Path, tmp_path: Path) -> list[AdapterFile]:
    return [written(model_path, tmp_path, name, seed) for seed, name in enumerate("ab", 5)]


def written(model_path: Path, folder: Path, name: str, seed: int) -> AdapterFile:
    data = adapter_file(model_path, seed)
    path = folder / f"{name}.gguf"
    path.write_bytes(data)
    return AdapterFile(name, path, "gguf", hashlib.sha256(data).hexdigest(), RANK)


@asynccontextmanager
async def running(
    model_path: Path, adapters: list[AdapterFile], piece: int = 16
) -> AsyncIterator[LlamaCppEngine]:
    host = LlamaHost(LlamaSettings(model_path, n_slots=1))
    await host.start(adapters)
    engine = LlamaCppEngine(host.url, piece, [one.id for one in adapters])
    try:
        yield engine
    finally:
        await engine.aclose()
        await host.stop()


async def prompt_of(engine: LlamaCppEngine) -> list[int]:
    return await engine.tokenize(await engine.apply_template(ASKED), parse_special=True)


async def answer(engine: LlamaCppEngine, adapter: str, ids: list[int] | None = None) -> list[int]:
    ids = ids or await prompt_of(engine)
    params = SamplingParams(N_TOKENS, temperature=0.0)
    return [
        token
        async for chunk in engine.generate(ids, params, slot=0, adapter=adapter)
        for token in chunk.token_ids
    ]


@pytest.mark.parametrize("piece", [16, 0])
async def test_answers_interleaved_on_one_slot_are_those_of_a_fresh_engine(
    model_path: Path, adapters: list[AdapterFile], piece: int
) -> None:
    fresh = {}
    for adapter in ("", "a", "b"):
        async with running(model_path, adapters, piece) as engine:
            fresh[adapter] = await answer(engine, adapter)
    assert len(set(map(tuple, fresh.values()))) == 3, "the adapters change nothing"
    async with running(model_path, [], piece) as engine:
        assert await answer(engine, "") == fresh[""], "an adapter is in answers without one"
    async with running(model_path, adapters, piece) as engine:
        for adapter in ("", "a", "", "b", "a", "a", "b", "", "b"):
            assert await answer(engine, adapter) == fresh[adapter], adapter


async def test_an_answer_that_was_cut_goes_on_as_the_whole_one(
    model_path: Path, adapters: list[AdapterFile]
) -> None:
    async with running(model_path, adapters) as engine:
        whole = await answer(engine, "a")
        prompt = await prompt_of(engine)
        for n_kept in (1, 7, 20):
            # Something else was in the slot meanwhile.
            await answer(engine, "")
            rest = await answer(engine, "a", [*prompt, *whole[:n_kept]])
            assert [*whole[:n_kept], *rest][:N_TOKENS] == whole


async def test_a_request_that_was_broken_off_leaves_nothing_that_is_taken_for_anothers(
    model_path: Path, adapters: list[AdapterFile]
) -> None:
    async with running(model_path, adapters) as engine:
        whole = await answer(engine, "")
        prompt = await prompt_of(engine)
        async with aclosing(
            engine.generate(prompt, SamplingParams(200, temperature=0.0), slot=0, adapter="b")
        ) as chunks:
            await anext(chunks)
        assert await answer(engine, "") == whole
        # Another client of the same server knows nothing of what the slot holds.
        other = LlamaCppEngine(engine.url, 16, [one.id for one in adapters])
        await answer(engine, "a")
        assert await answer(other, "") == whole
        await other.aclose()


async def test_an_adapter_that_is_not_loaded_is_not_answered_without(
    model_path: Path, adapters: list[AdapterFile]
) -> None:
    async with running(model_path, adapters[:1]) as engine:
        with pytest.raises(UnavailableError, match="has not loaded adapter b"):
            await answer(engine, "b")


async def test_a_file_that_llama_cpp_refuses_ends_the_start_and_not_the_process(
    model_path: Path, adapters: list[AdapterFile]
) -> None:
    adapters[0].path.write_bytes(adapters[0].path.read_bytes()[:5000])
    host = LlamaHost(LlamaSettings(model_path, n_slots=1))
    with pytest.raises(ModelFileError):
        await host.start(adapters)
    await host.start(adapters[1:])
    assert host.url
    await host.stop()
