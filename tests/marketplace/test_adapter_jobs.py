"""Jobs that wait for an adapter, and those that outlive the gateway or the adapter's name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.adapters.folder import AdapterFolder
from marketplace.gateway import GatewaySettings
from tests.marketplace.lora_files import LISTING, adapter_file
from tests.marketplace.site import (
    ADMIN_KEY,
    MODEL,
    FakeControl,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

MINE = f"{MODEL}:mine"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
ASKED = {"messages": [{"role": "user", "content": LISTING}], "temperature": 0, "max_tokens": 40}


class Tenant:
    """Who asks, and the operator besides."""

    def __init__(self, http: httpx.AsyncClient, key: str) -> None:
        self.http = http
        self._headers = {"Authorization": f"Bearer {key}"}

    async def chat(self, model: str, tier: str = "default") -> str:
        body = ASKED | {"model": model, "service_tier": tier}
        answer = await self.http.post("/v1/chat/completions", headers=self._headers, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    async def invoke(self, model: str) -> str:
        headers = self._headers | {"NVCF-POLL-SECONDS": "1"}
        path = f"/v2/nvcf/pexec/functions/{model}"
        answer = await self.http.post(path, headers=headers, json=ASKED)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["nvcf-reqid"])

    async def result(self, job_id: str) -> httpx.Response:
        async def done() -> httpx.Response | None:
            path = f"/v2/nvcf/pexec/status/{job_id}"
            answer = await self.http.get(path, headers=self._headers)
            return None if answer.status_code == 202 else answer

        found = await eventually(done)
        assert isinstance(found, httpx.Response)
        return found

    async def add(self, file: bytes) -> str:
        asked = {"tenant": "acme", "base": MODEL, "name": "mine", "size_bytes": len(file)}
        asked["sha256"] = hashlib.sha256(file).hexdigest()
        made = (await self.http.post("/admin/v1/adapters", headers=ADMIN, json=asked)).json()
        path = f"/admin/v1/adapters/{made['id']}/content"
        given = await self.http.put(path, headers=ADMIN, content=file)
        assert given.json()["state"] == "ready", given.text
        return str(made["id"])

    async def remove(self, adapter_id: str) -> None:
        path = f"/admin/v1/adapters/{adapter_id}"
        assert (await self.http.delete(path, headers=ADMIN)).status_code == 200

    async def has(self, adapter_id: str, key: str, value: Any) -> None:
        async def looked() -> bool:
            rows = (await self.http.get("/admin/v1/adapters", headers=ADMIN)).json()["data"]
            return any(row["id"] == adapter_id and row[key] == value for row in rows)

        await eventually(looked)

    async def n_waiting(self) -> int:
        stats = (await self.http.get("/admin/v1/stats", headers=ADMIN)).json()
        return int(stats["requests"]["waiting"])


@asynccontextmanager
async def gateway(settings: GatewaySettings, key: str = "") -> AsyncIterator[tuple[Tenant, str]]:
    async with (
        running_gateway(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        key = key or await new_key(url)
        yield Tenant(http, key), key


@pytest.fixture(scope="module")
def files(model_path: Path) -> list[bytes]:
    return [adapter_file(model_path, seed) for seed in (5, 6)]


async def test_a_job_whose_adapter_is_not_loaded_yet_lets_the_others_pass(
    model_path: Path, control: FakeControl, tmp_path: Path, files: list[bytes]
) -> None:
    # The engine looks elsewhere, until the test says the same there.
    there = AdapterFolder(tmp_path / "elsewhere")
    async with (
        running_agent(model_path, control, adapters_dir=tmp_path / "elsewhere") as agent,
        gateway(gateway_settings(tmp_path, agent)) as (tenant, _),
    ):
        adapter_id = await tenant.add(files[0])
        waiting = asyncio.create_task(tenant.chat(MINE, "priority"))
        await eventually(tenant.n_waiting)
        others = await asyncio.gather(
            *(tenant.chat(MODEL, tier) for tier in ("flex", "default", "flex"))
        )
        assert len(set(others)) == 1
        assert not waiting.done()
        stats = (await tenant.http.get("/admin/v1/stats", headers=ADMIN)).json()
        assert stats["requests"]["preempted"] == 0, "flex work was cut off for nothing"
        there.publish(MODEL, AdapterFolder(tmp_path / "adapters").wanted(MODEL))
        assert await waiting not in others
        await tenant.has(adapter_id, "loaded", True)


async def test_an_accepted_job_keeps_its_adapter_though_the_gateway_restarts_and_the_name_changes(
    model_path: Path, control: FakeControl, tmp_path: Path, files: list[bytes]
) -> None:
    async with running_agent(model_path, control, adapters_dir=tmp_path / "adapters") as agent:
        settings = gateway_settings(tmp_path, agent)
        async with gateway(settings) as (tenant, key):
            first = await tenant.add(files[0])
            await tenant.has(first, "loaded", True)
            expected = await tenant.chat(MINE)
            # Without a lease it waits.
            await control.revoke()
            job_id = await tenant.invoke(MINE)
            await tenant.remove(first)
            second = await tenant.add(files[1])
            await tenant.has(second, "state", "ready")
        async with gateway(settings, key) as (tenant, _):
            control.offer()
            answer = (await tenant.result(job_id)).json()
            assert answer["choices"][0]["message"]["content"] == expected
            await tenant.has(second, "loaded", True)
            assert await tenant.chat(MINE) != expected


async def test_a_job_whose_adapter_cannot_be_loaded_ends_with_the_reason(
    model_path: Path, control: FakeControl, tmp_path: Path, files: list[bytes]
) -> None:
    async with (
        running_agent(model_path, control, adapters_dir=tmp_path / "elsewhere") as agent,
        gateway(gateway_settings(tmp_path, agent)) as (tenant, _),
    ):
        adapter_id = await tenant.add(files[0])
        job_id = await tenant.invoke(MINE)
        await eventually(tenant.n_waiting)
        (tmp_path / "adapters" / f"{adapter_id}.gguf").write_bytes(b"spoiled")
        wanted = AdapterFolder(tmp_path / "adapters").wanted(MODEL)
        AdapterFolder(tmp_path / "elsewhere").publish(MODEL, wanted)
        answer = await tenant.result(job_id)
        assert answer.status_code == 400
        assert "SHA-256" in answer.text
        await tenant.has(adapter_id, "state", "failed")
        usage = (await tenant.http.get("/admin/v1/usage", headers=ADMIN)).json()
        assert usage["data"] == []
