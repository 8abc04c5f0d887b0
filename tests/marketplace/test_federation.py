"""Overflow to peers: real gateways under uvicorn, engines simulated."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from marketplace.federation.peers import Federation
from marketplace.federation.travel import POLICY
from marketplace.grpc_api import invocation_pb2 as pb
from marketplace.grpc_api import invocation_pb2_grpc as rpc
from tests.marketplace.federated import (
    N_ANSWER,
    N_LONG,
    PEERS_PRICE,
    WARM,
    answer_to,
    new_key,
    peer,
    peer_key,
    peers_ready,
    site,
)
from tests.marketplace.openai_server import WORDS, OpenAiServer, failure, serving
from tests.marketplace.simulated_engine import MODEL

PROMPT = "What is a cell?"


async def gathered(tasks: list[asyncio.Task[Any]]) -> None:
    for answer in await asyncio.gather(*tasks):
        assert answer.status_code == 200


async def test_what_overflows_is_answered_by_a_peer_and_billed_once(tmp_path: Path) -> None:
    async with site(tmp_path / "b", Federation("site-b", "eu")) as b:
        key = await peer_key(b, "site-a")
        theirs = peer(tmp_path, "site-b", f"{b.url}/v1", "eu", key)
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            long = await a.fill(mine)
            # Until its tenant allows it, nothing leaves.
            assert (await a.ask(mine, PROMPT)).status_code == 429
            assert (await b.get("stats"))["requests"]["received"] == 0
            await a.put("tenants/acme/policy", policy="regions=eu")
            answer = await a.ask(mine, PROMPT)
            assert answer.status_code == 200, answer.text
            said = answer.json()
            assert said["choices"][0]["message"]["content"] == answer_to(PROMPT)
            assert said["usage"]["prompt_tokens"] == len(PROMPT)
            await gathered(long)
            (bill,) = (await a.get("usage?tenant=acme"))["data"]
            n_input = len(WARM) + 2 * len("long 0") + len(PROMPT)
            n_output = 3 * N_LONG + N_ANSWER
            assert (bill["requests"], bill["input_tokens"], bill["output_tokens"]) == (
                4,
                n_input,
                n_output,
            )
            (cost,) = (await a.get("peers"))["costs"]
            (theirs_bill,) = (await b.get("usage?tenant=site-a"))["data"]
            assert cost["requests"] == theirs_bill["requests"] == 1
            tokens = (len(PROMPT), N_ANSWER)
            assert (cost["input_tokens"], cost["output_tokens"]) == tokens
            assert (theirs_bill["input_tokens"], theirs_bill["output_tokens"]) == tokens
            assert cost["cost_micro_usd"] == PEERS_PRICE.amount_micro_usd(*tokens)


async def test_a_grpc_stream_overflows_too_with_its_policy(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": N_ANSWER}
    asked = pb.InvokeStreamRequest(function_id=MODEL, body=json.dumps(body).encode())
    async with site(tmp_path / "b", Federation("site-b", "eu")) as b:
        key = await peer_key(b, "site-a")
        theirs = peer(tmp_path, "site-b", f"{b.url}/v1", "eu", key)
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu")
            long = await a.fill(mine)
            authorized = (("authorization", f"Bearer {mine}"),)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{a.grpc_port}") as channel:
                stub = rpc.InvocationServiceStub(channel)
                stays = (*authorized, (POLICY.lower(), "stay"))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    [event async for event in stub.InvokeStream(asked, metadata=stays)]
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                events = [event async for event in stub.InvokeStream(asked, metadata=authorized)]
            assert "".join(event.text for event in events) == answer_to(PROMPT)
            assert events[-1].HasField("finished")
            (theirs_bill,) = (await b.get("usage?tenant=site-a"))["data"]
            assert (theirs_bill["requests"], theirs_bill["output_tokens"]) == (1, N_ANSWER)
            await gathered(long)
            (bill,) = (await a.get("usage?tenant=acme"))["data"]
            assert bill["requests"] == 4


async def test_a_request_may_allow_less_than_its_tenant_and_never_more(tmp_path: Path) -> None:
    server = OpenAiServer()
    async with serving(server.app) as url:
        theirs = peer(tmp_path, "cloud", url, "eu", promises=frozenset({"no-training"}))
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu,us; needs=no-training")
            long = await a.fill(mine)
            for narrowed in ("stay", "regions=us", "regions=eu;needs=no-retention"):
                refused = await a.ask(mine, PROMPT, airan_data_policy=narrowed)
                assert refused.status_code == 429
            wrong = await a.ask(mine, PROMPT, airan_data_policy="anywhere")
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Airan-Data-Policy")
            assert server.bodies == []
            allowed = await a.ask(mine, PROMPT, airan_data_policy="regions=eu")
            assert allowed.json()["choices"][0]["message"]["content"] == "".join(WORDS[:N_ANSWER])
            await a.put("tenants/acme/policy", policy="stay")
            widened = await a.ask(mine, PROMPT, airan_data_policy="regions=eu")
            assert widened.status_code == 429
            assert len(server.bodies) == 1
            await gathered(long)


async def test_the_cheaper_peer_is_taken_and_when_it_refuses_the_next(tmp_path: Path) -> None:
    dear, cheap = OpenAiServer(), OpenAiServer()
    async with serving(dear.app) as dear_url, serving(cheap.app) as cheap_url:
        from marketplace.gateway import Price

        peers = (
            peer(tmp_path, "dear", dear_url, "eu", price=Price(9000, 9000)),
            peer(tmp_path, "cheap", cheap_url, "eu", price=Price(100, 100)),
        )
        async with site(tmp_path / "a", Federation("site-a", "eu", peers)) as a:
            await peers_ready(a, 2)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu")
            long = await a.fill(mine)
            assert (await a.ask(mine, PROMPT)).status_code == 200
            assert (len(cheap.bodies), len(dear.bodies)) == (1, 0)
            cheap.fail = failure(429, "full")
            assert (await a.ask(mine, PROMPT)).status_code == 200
            assert (len(cheap.bodies), len(dear.bodies)) == (1, 1)
            costs = {row["peer"]: row["requests"] for row in (await a.get("peers"))["costs"]}
            assert costs == {"cheap": 1, "dear": 1}
            await gathered(long)


async def test_a_peer_that_dies_in_the_middle_loses_nothing_and_is_billed_once(
    tmp_path: Path,
) -> None:
    server = OpenAiServer()
    server.breaks_after = 2
    async with serving(server.app) as url:
        theirs = peer(tmp_path, "cloud", url, "eu")
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu")
            long = await a.fill(mine)
            answer = await a.ask(mine, PROMPT, n=12)
            assert answer.status_code == 200, answer.text
            await gathered(long)
            begun = "".join(WORDS[:2])
            said = answer.json()["choices"][0]["message"]["content"]
            # Our engine goes on after what the peer had said: six tokens of ours.
            assert said == begun + answer_to(PROMPT + begun, 12 - len(begun))
            assert answer.json()["usage"]["airan"]["preemptions"] == 1
            assert answer.json()["usage"]["completion_tokens"] == 12
            assert len(server.bodies) == 1
            stats = await a.get("stats")
            assert stats["tokens"]["lost"] == 0
            (cost,) = (await a.get("peers"))["costs"]
            assert (cost["requests"], cost["output_tokens"]) == (1, 2)
            (bill,) = (await a.get("usage"))["data"]
            assert (bill["requests"], bill["output_tokens"]) == (4, 3 * N_LONG + 12)


async def test_a_peer_that_says_nothing_is_left_and_the_work_is_done_here(tmp_path: Path) -> None:
    server = OpenAiServer()
    server.fail = failure(500, "secret of the peer")
    async with serving(server.app) as url:
        theirs = peer(tmp_path, "cloud", url, "eu")
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu")
            long = await a.fill(mine)
            answer = await a.ask(mine, PROMPT)
            assert answer.json()["choices"][0]["message"]["content"] == answer_to(PROMPT)
            assert (await a.get("peers"))["costs"] == []
            await gathered(long)


async def test_what_is_sent_carries_its_way_its_policy_and_a_key_of_its_own(
    tmp_path: Path,
) -> None:
    server = OpenAiServer()
    seen: list[dict[str, str]] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            seen.append({key.decode(): value.decode() for key, value in scope["headers"]})
        await server.app(scope, receive, send)

    async with serving(noting) as url:  # type: ignore[arg-type]
        theirs = peer(tmp_path, "cloud", url, "eu", "sk-theirs")
        async with site(tmp_path / "a", Federation("site-a", "eu", (theirs,))) as a:
            await peers_ready(a)
            mine = await new_key(a.url)
            await a.put("tenants/acme/policy", policy="regions=eu,us")
            long = await a.fill(mine)
            for _ in range(2):
                assert (await a.ask(mine, PROMPT)).status_code == 200
            await gathered(long)
    assert [sent["airan-via"] for sent in seen] == ["site-a", "site-a"]
    assert {sent["airan-data-policy"] for sent in seen} == {"regions=eu,us"}
    assert {sent["authorization"] for sent in seen} == {"Bearer sk-theirs"}
    assert len({sent["idempotency-key"] for sent in seen}) == 2
    assert all(sent["idempotency-key"].startswith("airan-site-a-") for sent in seen)
    # Nothing of the tenant's but its prompt.
    assert mine not in json.dumps(seen) + json.dumps(server.bodies)
    assert MODEL in {body["model"] for body in server.bodies}
