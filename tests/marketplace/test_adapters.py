"""Tenants' LoRA adapters from end to end: real llama.cpp, real gateway."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from marketplace.adapters.adapter import AdapterLimits
from marketplace.gateway import ModelOffer, Price
from tests.marketplace.lora_files import KEYS, LISTING, adapter_file, gguf
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

ASKED = [{"role": "user", "content": LISTING}]
MINE = f"{MODEL}:mine"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@dataclass
class Market:
    url: str
    http: httpx.AsyncClient
    control: FakeControl
    file: bytes
    """A good adapter's."""
    keys: dict[str, str]
    clients: dict[str, openai.AsyncOpenAI]

    async def send(self, tenant: str, method: str, path: str, **asked: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return await self.http.request(method, path, headers=headers, **asked)

    async def announce(self, file: bytes, **changes: Any) -> httpx.Response:
        asked = {"tenant": "acme", "base": MODEL, "name": "mine", "size_bytes": len(file)}
        asked |= {"sha256": hashlib.sha256(file).hexdigest()} | changes
        return await self.http.post("/admin/v1/adapters", headers=ADMIN, json=asked)

    async def give(self, adapter_id: str, file: bytes) -> httpx.Response:
        path = f"/admin/v1/adapters/{adapter_id}/content"
        return await self.http.put(path, headers=ADMIN, content=file)

    async def row(self, adapter_id: str) -> dict[str, Any]:
        rows = (await self.http.get("/admin/v1/adapters", headers=ADMIN)).json()["data"]
        return next(dict(one) for one in rows if one["id"] == adapter_id)

    async def add(self, file: bytes | None = None, **changes: Any) -> str:
        """An adapter's id, when the engine has loaded it."""
        file = file or self.file
        made = await self.announce(file, **changes)
        assert made.status_code == 201, made.text
        given = await self.give(made.json()["id"], file)
        assert (given.status_code, given.json()["state"]) == (200, "ready"), given.text

        async def loaded() -> bool:
            return bool((await self.row(made.json()["id"]))["loaded"])

        await eventually(loaded)
        return str(made.json()["id"])

    async def ask(self, model: str, tenant: str = "acme", **parameters: Any) -> Any:
        asked = {"temperature": 0, "max_tokens": 16} | parameters
        create = self.clients[tenant].chat.completions.create
        return await create(model=model, messages=ASKED, **asked)

    async def text(self, model: str, tenant: str = "acme", **parameters: Any) -> str:
        return str((await self.ask(model, tenant, **parameters)).choices[0].message.content)


@pytest.fixture(scope="session")
def lora(model_path: Path) -> bytes:
    return adapter_file(model_path)


@pytest.fixture
async def market(
    model_path: Path, control: FakeControl, tmp_path: Path, lora: bytes
) -> AsyncIterator[Market]:
    async with running_agent(model_path, control, adapters_dir=tmp_path / "adapters") as agent:
        settings = gateway_settings(tmp_path, agent)
        limits = AdapterLimits(max_bytes=8 << 20, per_tenant=2, per_model=3)
        vectors = ModelOffer("vectors", 512, Price(0, 0), kind="embeddings")
        on_vllm = ModelOffer("on-vllm", 512, Price(0, 0), adapter_format="peft")
        models = (*settings.models, vectors, on_vllm)
        settings = replace(settings, adapter_limits=limits, models=models)
        async with (
            running_gateway(settings) as url,
            httpx.AsyncClient(base_url=url, timeout=60) as http,
        ):
            keys = {tenant: await new_key(url, tenant) for tenant in ("acme", "rival")}
            asked = {"base_url": f"{url}/v1", "max_retries": 0}
            clients = {
                tenant: openai.AsyncOpenAI(api_key=key, **asked) for tenant, key in keys.items()
            }
            yield Market(url, http, control, lora, keys, clients)
            for client in clients.values():
                await client.close()


async def test_an_adapter_changes_the_answers_of_those_who_name_it(market: Market) -> None:
    before = await market.text(MODEL)
    await market.add()
    with_it = await market.text(MINE)
    assert with_it != before
    assert await market.text(MODEL) == before
    assert await market.text(MINE) == with_it


async def test_every_interface_takes_an_adapter(market: Market) -> None:
    await market.add()
    chat = await market.text(MINE)
    base = await market.text(MODEL)
    client = market.clients["acme"]
    asked = {"model": MINE, "temperature": 0}
    completed = await client.completions.create(prompt="The sea", max_tokens=16, **asked)
    other = await client.completions.create(
        model=MODEL, prompt="The sea", max_tokens=16, temperature=0
    )
    assert (completed.model, completed.choices[0].text != other.choices[0].text) == (MINE, True)
    response = await client.responses.create(input=ASKED, max_output_tokens=16, **asked)
    assert (response.model, response.output_text) == (MINE, chat)
    body = {"messages": ASKED, "max_tokens": 16, **asked}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = await client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    async def ended() -> Any:
        found = await client.batches.retrieve(batch.id)
        return found if found.status == "completed" else None

    done = await eventually(ended)
    answer = json.loads((await client.files.content(done.output_file_id)).text)
    assert answer["response"]["body"]["choices"][0]["message"]["content"] == chat
    path = f"/v2/nvcf/pexec/functions/{MINE}"
    invoked = await market.send(
        "acme", "POST", path, json={"messages": ASKED, "max_tokens": 16} | {"temperature": 0}
    )
    while invoked.status_code == 202:
        path = f"/v2/nvcf/pexec/status/{invoked.headers['nvcf-reqid']}"
        invoked = await market.send("acme", "GET", path)
    assert invoked.json()["choices"][0]["message"]["content"] == chat != base
    streamed = ""
    async for chunk in await market.ask(MINE, stream=True):
        streamed += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert streamed == chat


async def test_another_tenant_gets_what_an_unknown_model_gets(market: Market) -> None:
    await market.add()
    asked = {"messages": ASKED, "prompt": "Hi", "input": "Hi", "max_tokens": 2}
    bodies = {
        "/v1/chat/completions": ("messages", "max_tokens"),
        "/v1/completions": ("prompt", "max_tokens"),
        "/v1/responses": ("input",),
        "/v1/embeddings": ("input",),
    }

    async def refusals(model: str) -> list[tuple[int, str]]:
        found = []
        for path, parts in bodies.items():
            body = {"model": model} | {part: asked[part] for part in parts}
            found.append(await market.send("rival", "POST", path, json=body))
        found.append(await market.send("rival", "GET", f"/v1/models/{model}"))
        path = f"/v2/nvcf/pexec/functions/{model}"
        found.append(await market.send("rival", "POST", path, json={"messages": ASKED}))
        path = f"/v2/nvcf/queues/functions/{model}"
        found.append(await market.send("rival", "GET", path))
        function = {"name": "f", "model": model}
        found.append(await market.send("rival", "POST", "/v2/nvcf/functions", json=function))
        return [(one.status_code, one.text.replace(model, "X")) for one in found]

    unknown = await refusals(f"{MODEL}:nothing")
    assert await refusals(MINE) == unknown
    assert [status for status, _ in unknown] == [404] * 7 + [400]
    assert all("model_not_found" in text for _, text in unknown[:5])
    listed = {
        tenant: [
            one["id"] for one in (await market.send(tenant, "GET", "/v1/models")).json()["data"]
        ]
        for tenant in ("acme", "rival")
    }
    assert MINE in listed["acme"]
    assert MINE not in listed["rival"]
    for path in ("/v1/prices", "/v2/nvcf/functions", "/v1/adapters"):
        assert MINE in (await market.send("acme", "GET", path)).text
        assert MINE not in (await market.send("rival", "GET", path)).text


async def test_namesakes_of_two_tenants_are_two_adapters(market: Market, model_path: Path) -> None:
    await market.add()
    await market.add(adapter_file(model_path, seed=6), tenant="rival")
    mine, theirs = await market.text(MINE), await market.text(MINE, "rival")
    assert len({mine, theirs, await market.text(MODEL)}) == 3
    assert (await market.text(MINE), await market.text(MINE, "rival")) == (mine, theirs)


async def test_an_adapter_of_the_operators_is_everybodys(market: Market) -> None:
    await market.add(tenant=None)
    assert await market.text(MINE) == await market.text(MINE, "rival") != await market.text(MODEL)
    taken = await market.announce(market.file)
    assert (taken.status_code, taken.json()["error"]["param"]) == (400, "name")


async def test_a_tenant_can_bring_its_own_adapter(market: Market) -> None:
    asked = {"base": MODEL, "name": "mine", "size_bytes": len(market.file)}
    asked["sha256"] = hashlib.sha256(market.file).hexdigest()
    made = await market.send("acme", "POST", "/v1/adapters", json=asked)
    assert (made.status_code, made.json()["state"]) == (201, "pending")
    path = f"/v1/adapters/{made.json()['id']}"
    early = await market.send(
        "acme", "POST", "/v1/completions", json={"model": MINE, "prompt": "a"}
    )
    assert (early.status_code, early.json()["error"]["code"]) == (409, "adapter_not_ready")
    assert (await market.send("rival", "PUT", f"{path}/content", content=b"x")).status_code == 404
    given = await market.send("acme", "PUT", f"{path}/content", content=market.file)
    assert (given.json()["state"], given.json()["rank"]) == ("ready", 4)
    assert await market.text(MINE) != await market.text(MODEL)
    assert (await market.send("rival", "DELETE", path)).status_code == 404
    assert (await market.send("acme", "DELETE", path)).json()["deleted"] is True
    with pytest.raises(openai.NotFoundError):
        await market.ask(MINE)


async def test_usage_names_the_adapter_and_it_costs_what_its_base_or_its_own_price_says(
    market: Market,
) -> None:
    await market.add()

    async def billed(model: str) -> tuple[int, int, int]:
        usage = (await market.ask(model)).usage
        found = (await market.http.get("/admin/v1/usage", headers=ADMIN)).json()["data"]
        row = next(one for one in found if one["model"] == model)
        return usage.prompt_tokens, usage.completion_tokens, row["amount_micro_usd"]

    n_input, n_output, amount = await billed(MINE)
    assert amount == Price.from_usd(0.01, 0.03).amount_micro_usd(n_input, n_output)
    price = {"model": MINE, "input_micro_usd_per_1k": 10**6, "output_micro_usd_per_1k": 0}
    made = await market.http.post("/admin/v1/prices", headers=ADMIN, json=price)
    assert made.status_code == 201, made.text
    more = (await billed(MINE))[2] - amount
    assert more == Price(10**6, 0).amount_micro_usd(n_input, n_output)
    n_input, n_output, amount = await billed(MODEL)
    assert amount == Price.from_usd(0.01, 0.03).amount_micro_usd(n_input, n_output)


async def test_a_revocation_goes_on_with_the_same_adapter(market: Market) -> None:
    await market.add()
    whole = await market.text(MINE, max_tokens=48)
    text, last, n_chunks = "", None, 0
    async for chunk in await market.ask(MINE, stream=True, max_tokens=48):
        if not chunk.choices:
            continue
        text, last, n_chunks = text + (chunk.choices[0].delta.content or ""), chunk, n_chunks + 1
        if n_chunks == 3:
            await market.control.revoke()
            market.control.offer()
            await market.text(MODEL)
    assert text == whole
    assert last is not None
    assert last.model_extra["airan"]["preemptions"] == 1
    stats = (await market.http.get("/admin/v1/stats", headers=ADMIN)).json()
    assert stats["tokens"]["lost"] == 0


async def test_adapters_that_come_and_go_while_answers_are_made_lose_nothing(
    market: Market, model_path: Path
) -> None:
    before = await market.text(MODEL, max_tokens=100)
    streams = [asyncio.create_task(market.text(MODEL, max_tokens=100)) for _ in range(3)]
    first = await market.add()
    waiting = asyncio.create_task(market.text(MINE, max_tokens=100))
    await market.add(adapter_file(model_path, seed=6), name="other")
    removed = await market.http.delete(f"/admin/v1/adapters/{first}", headers=ADMIN)
    assert removed.json() == {"id": first, "deleted": True}
    assert {await one for one in streams} == {before}
    assert await waiting not in (before, "")
    with pytest.raises(openai.NotFoundError):
        await market.ask(MINE)
    stats = (await market.http.get("/admin/v1/stats", headers=ADMIN)).json()
    assert (stats["tokens"]["lost"], stats["requests"]["completed"]) == (0, 5)


async def test_a_file_that_is_not_what_was_announced_leaves_it_failed(market: Market) -> None:
    made = (await market.announce(market.file)).json()
    wrong = bytearray(market.file)
    wrong[-1] ^= 1
    given = await market.give(made["id"], bytes(wrong))
    assert given.status_code == 400
    assert "SHA-256" in given.text
    assert (await market.row(made["id"]))["state"] == "failed"
    with pytest.raises(openai.ConflictError, match="SHA-256"):
        await market.ask(MINE)
    for data in (market.file[:-1], market.file + b"x"):
        assert (await market.give(made["id"], data)).status_code == 400
    assert (await market.give(made["id"], market.file)).json()["state"] == "ready"
    again = await market.give(made["id"], market.file)
    assert (again.status_code, again.json()["error"]["param"]) == (400, "content")
    assert await market.text(MINE)


async def test_a_file_that_is_no_adapter_or_of_another_model_is_refused_with_its_reason(
    market: Market,
) -> None:
    made = (await market.announce(b"GGUF no more")).json()
    given = await market.give(made["id"], b"GGUF no more")
    assert (given.status_code, (await market.row(made["id"]))["state"]) == (400, "failed")
    pair = {f"blk.0.ffn_down.weight.lora_{one}": np.ones((4, 4)) for one in "ab"}
    other = gguf(KEYS, pair)
    made = (await market.announce(other, name="others")).json()
    assert (await market.give(made["id"], other)).status_code == 200

    async def failed() -> bool:
        return bool((await market.row(made["id"]))["state"] == "failed")

    await eventually(failed)
    with pytest.raises(openai.ConflictError, match=r"blk\.0\.ffn_down\.weight of 4 x 4"):
        await market.ask(f"{MODEL}:others")
    assert await market.text(MODEL)


async def test_models_that_take_no_adapter_say_why(market: Market) -> None:
    for change, param, said in (
        ({"base": "vectors"}, "base", "embeddings"),
        ({"base": "nothing"}, "base", "not served here"),
        ({"base": "on-vllm"}, "format", "peft"),
        ({"base": "on-vllm", "format": "peft"}, "config", "required"),
        ({"name": "a:b"}, "name", "no name"),
        ({"sha256": "x" * 64}, "sha256", "hexadecimal"),
        ({"size_bytes": 9 << 20}, "size_bytes", "at most"),
        ({"config": {}}, "config", "peft only"),
    ):
        refused = await market.announce(market.file, **change)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], said in error["message"]) == (400, param, True)
    await market.add()
    body = {"model": MINE, "input": "Hi"}
    refused = await market.send("acme", "POST", "/v1/embeddings", json=body)
    assert (refused.status_code, "embeddings" in refused.text) == (400, True)


async def test_there_are_so_many_adapters_of_a_tenant_and_of_a_model(market: Market) -> None:
    for number in range(2):
        assert (await market.announce(market.file, name=f"n{number}")).status_code == 201
    more = await market.announce(market.file, name="n2")
    assert (more.status_code, more.json()["error"]["param"]) == (400, "tenant")
    made = await market.announce(market.file, name="n2", tenant="rival")
    assert made.status_code == 201
    more = await market.announce(market.file, name="n3", tenant=None)
    assert (more.status_code, more.json()["error"]["param"]) == (400, "base")
    path = f"/admin/v1/adapters/{made.json()['id']}"
    await market.http.delete(path, headers=ADMIN)
    assert (await market.announce(market.file, name="n3", tenant=None)).status_code == 201
