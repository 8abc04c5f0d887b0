"""vLLM under an engine agent: answers in tokens that outlive revocations and a killed server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from airan.core.errors import InvalidInputError, ModelFileError, UnavailableError
from marketplace.engines.base import SamplingParams, TokenChunk
from marketplace.engines.vllm import VllmEngine, _Pending
from marketplace.engines.vllm_host import VllmHost, VllmSettings
from marketplace.gateway import ModelOffer, Price
from tests.marketplace.site import (
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)
from tests.marketplace.tool_engines import WEATHER
from tests.marketplace.vllm_server import MODEL, N_CONTEXT, ROOT

STORY = [{"role": "user", "content": "Tell me a story about the sea."}]
GREEDY = SamplingParams(40, temperature=0.0)
START_S = 400
pytestmark = pytest.mark.timeout(START_S)


@pytest.fixture
async def engine(vllm_url: str) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(vllm_url, MODEL)
    yield engine
    await engine.aclose()


async def prompt_of(engine: VllmEngine) -> list[int]:
    return await engine.tokenize(await engine.apply_template(STORY), parse_special=True)


async def collect(
    engine: VllmEngine, prompt: Sequence[int], params: SamplingParams = GREEDY
) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(prompt, params, slot=0)]


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


async def test_an_answer_cut_after_any_token_goes_on_from_there(engine: VllmEngine) -> None:
    prompt = await prompt_of(engine)
    whole = await collect(engine, prompt)
    text = "".join(chunk.text for chunk in whole)
    ids = ids_of(whole)
    assert len(ids) == whole[-1].n_generated == 40
    for n_kept in (1, 7, 20, 39):
        rest = await collect(
            engine, [*prompt, *ids[:n_kept]], SamplingParams(40 - n_kept, temperature=0.0)
        )
        assert ids[:n_kept] + ids_of(rest) == ids
        assert text.endswith("".join(chunk.text for chunk in rest))


async def test_log_probabilities_come_with_every_token(engine: VllmEngine) -> None:
    chunks = await collect(
        engine, await prompt_of(engine), SamplingParams(6, temperature=0.0, n_logprobs=3)
    )
    logprobs = [one for chunk in chunks for one in chunk.logprobs]
    assert len(logprobs) == 6
    assert all(one.logprob <= 0 for one in logprobs)
    assert [one.logprob for one in logprobs] == [
        max(other.logprob for other in one.top) for one in logprobs
    ]


async def test_a_seed_gives_the_same_answer_again(engine: VllmEngine) -> None:
    prompt = await prompt_of(engine)
    same, again, other = [
        ids_of(await collect(engine, prompt, SamplingParams(20, seed=seed))) for seed in (5, 5, 6)
    ]
    assert same == again != other


async def test_a_json_schema_is_obeyed(engine: VllmEngine) -> None:
    schema = {"type": "string", "enum": ["fox", "sea"]}
    chunks = await collect(
        engine, await prompt_of(engine), SamplingParams(30, temperature=0.0, json_schema=schema)
    )
    assert "".join(chunk.text for chunk in chunks).strip() in ('"fox"', '"sea"')
    assert chunks[-1].finish_reason == "stop"


async def test_a_forced_function_call_keeps_to_its_schema(
    vllm: VllmSettings, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": STORY, "temperature": 0}
    tools = {"tools": [WEATHER], "tool_choice": "required"}
    async with market(vllm, FakeControl(), tmp_path) as (_, client):
        answer = await client.chat.completions.create(**asked, **tools)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        call = choice.message.tool_calls[0]
        values = json.loads(call.function.arguments)
        assert values["city"] in ("Paris", "Rome")
        assert 1 <= values["days"] <= 9
        said = choice.message.model_dump(exclude_none=True)
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
        after = asked | {"messages": [*STORY, said, result], "max_tokens": 4}
        answer = await client.chat.completions.create(**after, tools=[WEATHER])
        assert answer.usage.completion_tokens == 4


async def test_what_the_server_refuses_is_the_requests_fault(engine: VllmEngine) -> None:
    with pytest.raises(InvalidInputError, match="vocabulary"):
        await collect(engine, [10**6])
    with pytest.raises(InvalidInputError, match="embeddings"):
        await engine.embed([1, 2])


async def test_a_closed_stream_ends_its_request(engine: VllmEngine) -> None:
    prompt = await prompt_of(engine)

    async def was_seen_in_work() -> bool:
        stream = engine.generate(prompt, SamplingParams(900, temperature=0.0), slot=0)
        await anext(stream)
        is_in_work = await engine.running() > 0
        await stream.aclose()  # type: ignore[attr-defined]
        return is_in_work

    async def idle() -> bool:
        return await engine.running() == 0

    # On a machine that stands still for a moment this small model may be done by the first look.
    assert any([await was_seen_in_work() for _ in range(3)])
    await eventually(idle)


def test_tokens_wait_until_their_character_is_whole() -> None:
    pending = _Pending()

    def message(text: str, *ids: int, reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"text": text, "token_ids": list(ids), "finish_reason": reason}]}

    assert pending.take(message("", 195)) is None
    assert pending.take(message("ä", 164)) == TokenChunk("ä", (195, 164), 2)
    assert pending.take({"choices": [], "usage": {}}) is None
    assert pending.take(message("", 195, reason="length")) == TokenChunk("", (195,), 3, "length")
    with pytest.raises(UnavailableError):
        pending.take(message("", reason="abort"))


async def test_a_model_that_vllm_cannot_load_is_named(vllm: VllmSettings, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    host = VllmHost(replace(vllm, model_path=tmp_path, log_path=tmp_path / "log"))
    with pytest.raises(ModelFileError, match=str(tmp_path)):
        await host.start()
    assert host.url == ""


async def test_a_python_that_is_not_there_is_named(vllm: VllmSettings, tmp_path: Path) -> None:
    host = VllmHost(replace(vllm, python=tmp_path / "python", log_path=tmp_path / "log"))
    with pytest.raises(ModelFileError, match="vLLM"):
        await host.start()


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "marketplace.engines.lifeline", str(read), "sleep", "1000"],
        pass_fds=(read,),
        start_new_session=True,
        cwd=ROOT,
    )
    os.close(read)
    deadline_s = time.monotonic() + 30
    while not (children := psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.close(write)
    assert process.wait(30) == -signal.SIGKILL
    assert not psutil.wait_procs(children, timeout=30)[1]


def servers() -> set[int]:
    """The process groups of the vLLM servers that run under this process."""
    children = psutil.Process().children()
    return {one.pid for one in children if "marketplace.engines.lifeline" in one.cmdline()}


@asynccontextmanager
async def market(
    vllm: VllmSettings, control: FakeControl, folder: Path
) -> AsyncIterator[tuple[str, openai.AsyncOpenAI]]:
    async with running_agent(vllm.model_path, control, model=MODEL, vllm=vllm) as agent:
        offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
        settings = replace(gateway_settings(folder, agent, engine_wait_s=200.0), models=(offer,))
        async with running_gateway(settings) as url:
            key = await new_key(url)
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as http:
                yield url, http


async def test_a_stream_outlives_a_revocation_and_a_killed_server_word_for_word(
    vllm: VllmSettings, control: FakeControl, tmp_path: Path
) -> None:
    vllm, before = replace(vllm, log_path=tmp_path / "vllm.log"), servers()
    async with market(vllm, control, tmp_path) as (url, client):
        asked = {"model": MODEL, "messages": STORY, "temperature": 0, "max_tokens": 600}
        whole = (await client.chat.completions.create(**asked)).choices[0].message.content
        text, stages = "", ["revoke", "kill"]
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            if not stages or len(text) < 100 * (3 - len(stages)):
                continue
            if stages.pop(0) == "revoke":
                await control.revoke()
                assert control.released_late_s[-1] < 0
                control.offer()
            else:
                (ours,) = servers() - before
                os.killpg(ours, signal.SIGKILL)
        assert (text, stages) == (whole, [])
        stats = await admin_get(url, "stats")
        assert (stats["requests"]["completed"], stats["tokens"]["lost"]) == (2, 0)
    assert control.held == {}
