"""No secret is in the log: keys, the admin key, webhook secrets, prompts and answers."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from tests.marketplace.site import (
    ADMIN_KEY,
    MODEL,
    FakeControl,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

PROMPT = "The password of the lighthouse is heliotrope."
WRONG_KEY = "airan-sk-wrong-0123456789abcdef"


async def test_nothing_secret_is_logged(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What the HTTP client of this test logs is not the product's.
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, logger=name)
    caplog.set_level(logging.DEBUG)
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(tmp_path, agent_url)) as url,
        httpx.AsyncClient(base_url=url, timeout=30.0) as http,
    ):
        key = await new_key(url)
        own = {"Authorization": f"Bearer {key}"}
        chat = {
            "model": MODEL,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 8,
            # A drawn answer may be empty, or a word that is in any log.
            "temperature": 0,
        }
        good = await http.post("/v1/chat/completions", json=chat, headers=own)
        answer = good.json()["choices"][0]["message"]["content"]
        refused = {"Authorization": f"Bearer {WRONG_KEY}"}
        assert (await http.get("/v1/models", headers=refused)).status_code == 401
        assert (await http.get("/admin/v1/usage", headers=refused)).status_code == 401
        wrong = chat | {"no_such_parameter": PROMPT}
        assert (await http.post("/v1/chat/completions", json=wrong, headers=own)).status_code == 400
        stored = chat | {"max_tokens": 4}
        path = f"/v2/nvcf/pexec/functions/{MODEL}"
        assert (await http.post(path, json=stored, headers=own)).status_code in (200, 202)
        hook = {"url": "https://hooks.example/in", "events": ["job.completed"]}
        made = await http.post("/v1/webhooks", json=hook, headers=own)
        secret = made.json().get("secret", "")
        assert secret.startswith("whsec_")
    # Something is logged, or this would show nothing.
    assert caplog.records
    for hidden in (key, ADMIN_KEY, WRONG_KEY, secret, PROMPT, answer.strip()):
        assert hidden
        assert hidden not in caplog.text
