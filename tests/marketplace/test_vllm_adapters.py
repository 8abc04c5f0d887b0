"""LoRA adapters on vLLM: loaded while it serves, kept apart, and the same after a break."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from airan.core.errors import InvalidInputError, ModelFileError
from marketplace.adapters.adapter import CONFIG, TENSORS, AdapterFile
from marketplace.adapters.folder import check_file
from marketplace.engines.base import SamplingParams
from marketplace.engines.vllm import VllmEngine
from marketplace.engines.vllm_host import VllmHost, VllmSettings
from marketplace.gateway import ModelOffer, Price
from tests.marketplace.lora_files import RANK, peft
from tests.marketplace.site import (
    ADMIN_KEY,
    FakeControl,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)
from tests.marketplace.vllm_server import MODEL, N_CONTEXT

pytestmark = pytest.mark.timeout(400)
STORY = [{"role": "user", "content": "Tell me a story about the sea, and another one."}]
GREEDY = SamplingParams(24, temperature=0.0)
MODULES = ["o_proj", "down_proj"]
MINE = f"{MODEL}:mine"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


def shape(module: str) -> tuple[int, int]:
    """Outputs and inputs in the model of random_llama.py."""
    return (128, 256) if module == "down_proj" else (128, 128)


def made(seed: int) -> tuple[bytes, dict[str, Any]]:
    return peft(shape, MODULES, n_layers=2, seed=seed)


def folder_of(place: Path, name: str, tensors: bytes, config: dict[str, Any]) -> AdapterFile:
    path = place / name
    path.mkdir()
    (path / TENSORS).write_bytes(tensors)
    (path / CONFIG).write_text(json.dumps(config))
    return AdapterFile(name, path, "peft", hashlib.sha256(tensors).hexdigest(), RANK)


@asynccontextmanager
async def started(vllm: VllmSettings) -> AsyncIterator[tuple[VllmHost, VllmEngine]]:
    host = VllmHost(vllm)
    await host.start()
    engine = VllmEngine(host.url, MODEL)
    try:
        yield host, engine
    finally:
        await engine.aclose()
        await host.stop()


async def answer(engine: VllmEngine, prompt: Sequence[int], adapter: str = "") -> list[int]:
    stream = engine.generate(prompt, GREEDY, slot=0, adapter=adapter)
    return [token async for chunk in stream for token in chunk.token_ids]


async def test_adapters_come_and_go_while_it_runs_and_answers_never_mix(
    vllm: VllmSettings, tmp_path: Path
) -> None:
    vllm = replace(vllm, log_path=tmp_path / "log", max_adapters=2, max_adapter_rank=8)
    one, two = (folder_of(tmp_path, name, *made(seed)) for seed, name in enumerate("ab"))
    fresh = {}
    # Without caches of prefixes nothing can mix.
    plain = replace(vllm, args=(*vllm.args, "--no-enable-prefix-caching"))
    async with started(plain) as (host, engine):
        prompt = await engine.tokenize(await engine.apply_template(STORY), parse_special=True)
        assert len(prompt) > 64
        await host.add_adapter(one)
        await host.add_adapter(two)
        for name in ("", "a", "b"):
            fresh[name] = await answer(engine, prompt, name)
    assert len(set(map(tuple, fresh.values()))) == 3, "the adapters change nothing"
    async with started(vllm) as (host, engine):
        assert await answer(engine, prompt) == fresh[""]
        await host.add_adapter(one)
        await host.add_adapter(two)
        for name in ("a", "", "b", "a", "", "b"):
            assert await answer(engine, prompt, name) == fresh[name], name
        for n_kept in (1, 9, 20):
            rest = await answer(engine, [*prompt, *fresh["a"][:n_kept]], "a")
            assert [*fresh["a"][:n_kept], *rest][: len(fresh["a"])] == fresh["a"]
        with pytest.raises(InvalidInputError, match="vLLM refuses it"):
            await host.add_adapter(replace(one, id="c", path=tmp_path / "nothing"))
        with pytest.raises(InvalidInputError, match="rank is 9"):
            await host.add_adapter(replace(one, rank=9))
        await host.drop_adapter(two)
        with pytest.raises(InvalidInputError):
            await answer(engine, prompt, "b")
        assert await answer(engine, prompt, "a") == fresh["a"]


def test_an_adapter_of_another_model_is_not_given_to_vllm(
    vllm: VllmSettings, tmp_path: Path
) -> None:
    check_file(folder_of(tmp_path, "a", *made(1)), vllm.model_path)
    others = peft(lambda module: (64, 64), MODULES, n_layers=2)
    with pytest.raises(ModelFileError, match=r"o_proj\.weight of 64 x 64, which is \(128, 128\)"):
        check_file(folder_of(tmp_path, "b", *others), vllm.model_path)
    deeper = peft(shape, MODULES, n_layers=3)
    with pytest.raises(ModelFileError, match="which is None in the model"):
        check_file(folder_of(tmp_path, "c", *deeper), vllm.model_path)


async def test_a_tenants_adapter_is_served_and_outlives_a_revocation(
    vllm: VllmSettings, control: FakeControl, tmp_path: Path
) -> None:
    vllm = replace(vllm, log_path=tmp_path / "log", max_adapters=2)
    offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03), adapter_format="peft")
    tensors, config = made(1)
    folder = tmp_path / "adapters"
    async with running_agent(
        vllm.model_path, control, model=MODEL, vllm=vllm, adapters_dir=folder
    ) as agent:
        settings = gateway_settings(tmp_path, agent, engine_wait_s=200.0)
        async with (
            running_gateway(replace(settings, models=(offer,))) as url,
            httpx.AsyncClient(base_url=url, headers=ADMIN, timeout=60) as admin,
            openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=await new_key(url), max_retries=0
            ) as client,
        ):
            create = client.chat.completions.create
            asked: dict[str, Any] = {"messages": STORY, "temperature": 0, "max_tokens": 900}
            base = (await create(model=MODEL, **asked)).choices[0].message.content
            digest = hashlib.sha256(tensors).hexdigest()
            body = {"tenant": "acme", "base": MODEL, "name": "mine", "format": "peft"}
            body |= {"sha256": digest, "size_bytes": len(tensors), "config": config}
            row = (await admin.post("/admin/v1/adapters", json=body)).json()
            path = f"/admin/v1/adapters/{row['id']}/content"
            assert (await admin.put(path, content=tensors)).json()["state"] == "ready"

            async def loaded() -> bool:
                rows = (await admin.get("/admin/v1/adapters")).json()["data"]
                return bool(rows[0]["loaded"])

            await eventually(loaded)
            whole = (await create(model=MINE, **asked)).choices[0].message.content
            assert whole != base
            n_preempted = 0
            # On a busy machine an answer may be complete before the revocation gets through.
            for _ in range(20):
                text = ""
                async for chunk in await create(model=MINE, stream=True, **asked):
                    first = not text
                    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                    if text and first:
                        await control.revoke()
                        control.offer()
                assert text == whole
                stats = (await admin.get("/admin/v1/stats")).json()
                if n_preempted := stats["requests"]["preempted"]:
                    break
            assert (n_preempted, stats["tokens"]["lost"]) == (1, 0)
