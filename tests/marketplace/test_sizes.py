"""Limits on what a request may bring: prompts, bodies, files, batches' lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.gateway import ModelOffer, Price
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT, simulated_agent
from tests.marketplace.site import eventually, gateway_settings, new_key, running_gateway

MAX_BODY_BYTES, MAX_FILE_BYTES, MAX_LINES = 2_000, 1_000, 2


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A tenant of a gateway with small limits."""
    async with simulated_agent() as agent:
        settings = replace(
            gateway_settings(tmp_path, agent),
            models=(ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03)),),
            max_body_bytes=MAX_BODY_BYTES,
            max_file_bytes=MAX_FILE_BYTES,
            max_batch_lines=MAX_LINES,
        )
        async with running_gateway(settings) as url:
            headers = {"Authorization": f"Bearer {await new_key(url)}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
                yield http


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}


async def upload(tenant: httpx.AsyncClient, content: bytes) -> httpx.Response:
    files = {"file": ("in.jsonl", content)}
    return await tenant.post("/v1/files", data={"purpose": "batch"}, files=files)


async def batch(tenant: httpx.AsyncClient, n_lines: int) -> dict[str, Any]:
    """A batch of so many lines, when it has ended."""
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": chat("Hi", max_tokens=1),
        }
        for n in range(n_lines)
    ]
    file = (await upload(tenant, "\n".join(map(json.dumps, lines)).encode())).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
    made = await tenant.post("/v1/batches", json=asked | {"completion_window": "24h"})

    async def ended() -> Any:
        found = (await tenant.get(f"/v1/batches/{made.json()['id']}")).json()
        return found if found["status"] in ("completed", "failed") else None

    ended_batch: dict[str, Any] = await eventually(ended)
    return ended_batch


async def test_a_prompt_fits_the_context_to_the_last_token_and_no_further(
    tenant: httpx.AsyncClient,
) -> None:
    whole = await tenant.post(
        "/v1/chat/completions", json=chat("x" * (N_CONTEXT - 1), max_tokens=1)
    )
    assert whole.status_code == 200, whole.text
    for path, asked in (
        ("/v1/chat/completions", chat("x" * N_CONTEXT, max_tokens=1)),
        ("/v1/completions", {"model": MODEL, "prompt": "x" * N_CONTEXT, "max_tokens": 1}),
        (f"/v2/nvcf/pexec/functions/{MODEL}", chat("x" * N_CONTEXT, max_tokens=1)),
    ):
        refused = await tenant.post(path, json=asked)
        assert refused.status_code == 400, path
        assert refused.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/v1/chat/completions", f"/v2/nvcf/pexec/functions/{MODEL}"])
async def test_a_body_over_its_limit_is_refused(tenant: httpx.AsyncClient, path: str) -> None:
    refused = await tenant.post(path, json=chat("x" * MAX_BODY_BYTES))
    assert refused.status_code == 413
    assert str(MAX_BODY_BYTES) in refused.json()["error"]["message"]


async def test_a_file_may_be_as_long_as_its_limit_and_no_longer(tenant: httpx.AsyncClient) -> None:
    assert (await upload(tenant, b"x" * MAX_FILE_BYTES)).status_code == 200
    refused = await upload(tenant, b"x" * (MAX_FILE_BYTES + 1))
    assert refused.status_code == 413
    assert str(MAX_FILE_BYTES) in refused.json()["error"]["message"]


async def test_a_batch_has_as_many_lines_as_its_limit_and_no_more(
    tenant: httpx.AsyncClient,
) -> None:
    assert (await batch(tenant, MAX_LINES))["request_counts"]["completed"] == MAX_LINES
    refused = await batch(tenant, MAX_LINES + 1)
    assert refused["status"] == "failed"
    (error,) = refused["errors"]["data"]
    assert error["code"] == "too_many_requests"
    assert f"at most {MAX_LINES}" in error["message"]
