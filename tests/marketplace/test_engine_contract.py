"""One contract over every engine driver: llama.cpp in tokens, and OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request

from airan.core.errors import CapacityError, ConfigError, InvalidInputError, UnavailableError
from marketplace.engines.base import SamplingParams
from marketplace.engines.external import ExternalEngine, ExternalSettings
from marketplace.engines.host import LlamaHost, LlamaSettings
from marketplace.engines.llamacpp import LlamaCppEngine
from marketplace.engines.text import TextChunk, TextEngine, TokensAsText
from marketplace.engines.vllm import VllmEngine
from tests.marketplace.openai_server import OpenAiServer, failure, serving

# vLLM takes its time to start.
pytestmark = pytest.mark.timeout(400)
STORY = [{"role": "user", "content": "Tell me a story about the sea."}]
GREEDY = SamplingParams(12, temperature=0.0)
KEY = "sk-secret-of-this-test"


@pytest.fixture
async def server() -> OpenAiServer:
    return OpenAiServer()


@pytest.fixture
async def external(
    server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ExternalEngine]:
    monkeypatch.setenv("AIRAN_TEST_ENGINE_KEY", KEY)
    async with serving(server.app) as url:
        settings = ExternalSettings(
            url, "words", key_env="AIRAN_TEST_ENGINE_KEY", continues_text=True
        )
        async with contextlib.aclosing(ExternalEngine(settings)) as engine:
            yield engine


@pytest.fixture(params=["llamacpp", "external llama.cpp", "external", "vllm", "external vllm"])
async def engine(
    request: pytest.FixtureRequest, external: ExternalEngine
) -> AsyncIterator[TextEngine]:
    if request.param == "external":
        yield external
        return
    if request.param.endswith("vllm"):
        url: str = request.getfixturevalue("vllm_url")
        name = request.getfixturevalue("vllm").model
        served: TextEngine = TokensAsText(VllmEngine(url, name))
        if request.param != "vllm":
            served = ExternalEngine(ExternalSettings(f"{url}/v1", name))
        async with contextlib.aclosing(served):
            yield served
        return
    path: Path = request.getfixturevalue("model_path")
    host = LlamaHost(LlamaSettings(path))
    await host.start()
    engine: TextEngine
    if request.param == "llamacpp":
        engine = TokensAsText(LlamaCppEngine(host.url, prefill_piece_tokens=16))
    else:
        settings = ExternalSettings(f"{host.url}/v1", "any", continues_text=True)
        engine = ExternalEngine(settings)
    try:
        yield engine
    finally:
        await engine.aclose()
        await host.stop()


async def collect(
    engine: TextEngine, params: SamplingParams = GREEDY, answered: str = ""
) -> list[TextChunk]:
    return [chunk async for chunk in engine.answer(STORY, params, answered=answered)]


def text_of(chunks: list[TextChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_an_answer_ends_with_one_reason_and_its_usage(engine: TextEngine) -> None:
    assert await engine.health()
    chunks = await collect(engine)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens > 0
    assert {chunk.resumed for chunk in chunks} == {"none"}


async def test_an_answer_goes_on_after_its_text_and_says_so(engine: TextEngine) -> None:
    if engine.resume == "none":
        with pytest.raises(InvalidInputError):
            await collect(engine, answered="Once")
        return
    whole = text_of(await collect(engine))
    first = text_of(await collect(engine, SamplingParams(5, temperature=0.0)))
    rest = await collect(engine, SamplingParams(7, temperature=0.0), answered=first)
    assert first + text_of(rest) == whole
    assert {chunk.resumed for chunk in rest} == {"text"}


async def test_a_closed_answer_leaves_the_engine_free_for_the_next(engine: TextEngine) -> None:
    stream = engine.answer(STORY, SamplingParams(400, temperature=0.0))
    assert (await anext(stream)).finish_reason is None
    await stream.aclose()  # type: ignore[attr-defined]
    assert (await collect(engine))[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInputError),
        (404, InvalidInputError),
        (422, InvalidInputError),
        (429, CapacityError),
        (401, UnavailableError),
        (403, UnavailableError),
        (307, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_every_refusal_becomes_one_of_our_errors_without_the_key(
    server: OpenAiServer, external: ExternalEngine, status: int, error: type[Exception]
) -> None:
    server.fail = failure(status, f"bad key {KEY}", **{"Retry-After": "7"})
    with pytest.raises(error) as raised:
        await collect(external)
    assert KEY not in str(raised.value)
    assert (status == 429) == ("try again in 7 s" in str(raised.value))
    assert server.keys == [f"Bearer {KEY}"]


async def test_a_stream_without_its_end_is_unavailable(
    server: OpenAiServer, external: ExternalEngine
) -> None:
    server.breaks_after = 3
    with pytest.raises(UnavailableError, match="before it was done"):
        await collect(external)


async def test_a_server_that_is_silent_too_long_is_unavailable() -> None:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def silent(request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)

    async with serving(app) as url:
        settings = ExternalSettings(url, "m", read_timeout_s=0.1)
        async with contextlib.aclosing(ExternalEngine(settings)) as engine:
            with pytest.raises(UnavailableError):
                await collect(engine)


async def test_a_server_that_cannot_continue_text_refuses_to(server: OpenAiServer) -> None:
    async with serving(server.app) as url:
        engine = ExternalEngine(ExternalSettings(url, "m"))
        assert engine.resume == "none"
        with pytest.raises(InvalidInputError, match="in the middle"):
            await collect(engine, answered="w0 ")


def test_a_key_file_is_read_at_each_use(tmp_path: Path) -> None:
    path = tmp_path / "key"
    settings = ExternalSettings("https://example.org/v1", "m", key_file=path)
    for key in ("first", "second"):
        path.write_text(f"{key}\n")
        assert settings.key() == key
        assert key not in repr(settings)
    path.write_text("")
    with pytest.raises(ConfigError, match="no usable API key"):
        settings.key()


@pytest.mark.parametrize(
    "url", ["ftp://example.org", "https://user:pw@example.org/v1", "http://example.org/v1"]
)
def test_an_unsafe_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        ExternalSettings(url, "m", key_env="ANY")
