"""What goes over the wire, strictly against the types that OpenAI generates from its schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.marketplace.simulated_engine import MODEL, simulated_market
from tests.marketplace.site import new_key

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
TEXT = {"model": MODEL, "prompt": "Hi", "max_tokens": 4}
RESPONSE = {"model": MODEL, "input": "Hi", "max_output_tokens": 16}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with simulated_market(tmp_path) as url:
        headers = {"Authorization": f"Bearer {await new_key(url)}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            yield http


def check(kind: Any, body: str | bytes) -> None:
    TypeAdapter(kind).validate_json(body, strict=True)


async def events(tenant: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[str]:
    """The data of a stream's events, without its end."""
    answer = await tenant.post(path, json=body)
    assert answer.status_code == 200, answer.text
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [one for one in data if one != "[DONE]"]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", CHAT, ChatCompletion),
        ("/v1/completions", TEXT, Completion),
        ("/v1/responses", RESPONSE, Response),
        ("/v1/responses", RESPONSE | {"background": True}, Response),
    ],
)
async def test_answers_are_of_openais_types(
    tenant: httpx.AsyncClient, path: str, body: dict[str, Any], kind: Any
) -> None:
    answer = await tenant.post(path, json=body)
    assert answer.status_code == 200, answer.text
    check(kind, answer.content)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", CHAT | USAGE, ChatCompletionChunk),
        ("/v1/completions", TEXT | USAGE, Completion),
        ("/v1/responses", RESPONSE | {"stream": True}, ResponseStreamEvent),
    ],
)
async def test_every_event_of_a_stream_is_of_openais_type(
    tenant: httpx.AsyncClient, path: str, body: dict[str, Any], kind: Any
) -> None:
    found = await events(tenant, path, body)
    assert len(found) > 4
    for one in found:
        # The published type of completions knows no piece before the end; OpenAI itself says null.
        ended = one.replace('"finish_reason": null', '"finish_reason": "stop"')
        check(kind, ended if kind is Completion else one)


async def test_the_models_are_of_openais_type(tenant: httpx.AsyncClient) -> None:
    listed = (await tenant.get("/v1/models")).json()
    assert listed["object"] == "list"
    (one,) = listed["data"]
    check(Model, (await tenant.get(f"/v1/models/{one['id']}")).content)
