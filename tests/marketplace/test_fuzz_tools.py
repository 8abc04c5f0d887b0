"""Functions drawn at random for a model whose template has them: never a 5xx."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.marketplace.test_fuzz import VALUES, check
from tests.marketplace.tool_engines import ASK, selling, templated

WORDS = ["type", "properties", "items", "enum", "const", "required", "anyOf", "$ref", "$defs"]
WORDS += ["minimum", "maxLength", "minItems", "pattern", "format", "additionalProperties", "not"]
KINDS = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
SCHEMAS: Any = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "type": KINDS,
            "properties": st.dictionaries(st.sampled_from(["a", "b", "$ref"]), SCHEMAS, max_size=2),
            "items": SCHEMAS,
            "anyOf": st.lists(SCHEMAS, min_size=1, max_size=2),
            "$ref": st.sampled_from(["#/$defs/a", "#", "x"]),
            "$defs": st.just({"a": {"type": "string"}}),
            "required": st.just(["a"]),
        },
    )
)
PARAMETERS = SCHEMAS | st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=3) | VALUES
NAMES = st.sampled_from(["f", "g"]) | st.text(max_size=3)
FUNCTIONS = st.fixed_dictionaries(
    {"name": NAMES}, optional={"parameters": PARAMETERS, "description": st.none() | st.text()}
)
TOOLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTIONS}), max_size=2
)
CALL = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b"]),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": NAMES, "arguments": st.text() | st.just('{"a": 1}')}
        ),
    }
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "tool_calls": st.lists(CALL, min_size=1, max_size=2)}
    )
    | st.fixed_dictionaries(
        {
            "role": st.just("tool"),
            "tool_call_id": st.sampled_from(["a", "b"]),
            "content": st.text(),
        }
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def served(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[asyncio.Runner, openai.AsyncOpenAI]]:
    """An event loop with a gateway in it, and a client that has a key."""
    with asyncio.Runner() as runner:
        market = selling(tmp_path_factory.mktemp("fuzz"), templated(model_path))
        _, client = runner.run(market.__aenter__())
        yield runner, client
        runner.run(market.__aexit__(None, None, None))


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    tools=TOOLS,
    more=MESSAGES,
    choice=st.sampled_from(["auto", "required", "none"]) | VALUES,
    stream=st.booleans(),
)
def test_no_function_breaks_the_gateway(
    served: tuple[asyncio.Runner, openai.AsyncOpenAI],
    tools: list[Any],
    more: list[Any],
    choice: Any,
    stream: bool,
) -> None:
    runner, client = served
    body = ASK | {"tools": tools, "tool_choice": choice, "max_tokens": 1, "stream": stream}
    body["messages"] = [*ASK["messages"], *more]

    async def ask() -> httpx.Response:
        headers = {"Authorization": f"Bearer {client.api_key}"}
        async with httpx.AsyncClient(timeout=30, headers=headers) as http:
            return await http.post(f"{client.base_url}chat/completions", json=body)

    check(runner.run(ask()))
