"""Requests drawn at random: whatever is sent, the gateway answers, and never with a 5xx."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.marketplace.site import (
    MODEL,
    FakeControl,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": MESSAGES, "max_tokens": 1},
    "/v1/completions": {"model": MODEL, "prompt": "Hi", "max_tokens": 1},
    "/v1/responses": {"model": MODEL, "input": "Hi", "max_output_tokens": 16},
    "/v1/embeddings": {"model": MODEL, "input": "Hi"},
    "/v1/batches": {
        "input_file_id": "file-1",
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    },
}
PARAMETERS = [
    "model",
    "messages",
    "prompt",
    "input",
    "max_tokens",
    "stream",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "n",
    "service_tier",
    "metadata",
    "instructions",
    "previous_response_id",
    "background",
    "store",
    "text",
    "encoding_format",
    "input_file_id",
    "endpoint",
]


@pytest.fixture(scope="module")
def served(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[asyncio.Runner, httpx.AsyncClient]]:
    """An event loop with a gateway in it, and a client that has a key."""
    folder = tmp_path_factory.mktemp("fuzz")
    with asyncio.Runner() as runner:
        agent = running_agent(model_path, FakeControl())
        gateway = running_gateway(gateway_settings(folder, runner.run(agent.__aenter__())))
        url = runner.run(gateway.__aenter__())
        headers = {"Authorization": f"Bearer {runner.run(new_key(url))}"}
        http = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)
        yield runner, http
        runner.run(http.aclose())
        runner.run(gateway.__aexit__(None, None, None))
        runner.run(agent.__aexit__(None, None, None))


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(list(BODIES)),
    changes=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, min_size=1, max_size=2),
)
def test_no_value_of_any_parameter_breaks_the_gateway(
    served: tuple[asyncio.Runner, httpx.AsyncClient], path: str, changes: dict[str, Any]
) -> None:
    runner, http = served
    check(runner.run(http.post(path, json=BODIES[path] | changes)))


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    folder=st.sampled_from(["files", "batches", "responses", "completions", "embeddings"]),
    name=st.text("abz09_-.%/ ", max_size=12),
    query=st.dictionaries(
        st.sampled_from(["limit", "after", "order", "stream", "starting_after"]),
        st.text(st.characters(codec="utf-8"), max_size=6),
        max_size=2,
    ),
    content=st.binary(max_size=40),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain"]),
)
def test_no_address_or_body_breaks_the_gateway(
    served: tuple[asyncio.Runner, httpx.AsyncClient],
    method: str,
    folder: str,
    name: str,
    query: dict[str, str],
    content: bytes,
    kind: str,
) -> None:
    runner, http = served
    address = httpx.URL(f"/v1/{folder}").copy_with(path=f"/v1/{folder}/{name}".rstrip("/"))
    headers = {"content-type": kind}
    check(runner.run(http.request(method, address, params=query, content=content, headers=headers)))
