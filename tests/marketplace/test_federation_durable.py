"""Jobs without a waiting client at peers: real gateways, one of them killed on the way."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.federation.peers import Federation
from tests.marketplace.dying_gateway import ON_A_STREAM, POINTS
from tests.marketplace.federated import (
    ALWAYS_FULL,
    PEERS_PRICE,
    Site,
    answer_to,
    new_key,
    peer,
    peer_key,
    peers_ready,
    site,
)
from tests.marketplace.openai_server import WORDS, OpenAiServer, serving
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT, simulated_agent
from tests.marketplace.site import eventually

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "What is a cell?"
N_ANSWER = 16
EXPECTED = answer_to(PROMPT, N_ANSWER)
PEXEC = f"/v2/nvcf/pexec/functions/{MODEL}"
STATUS = "/v2/nvcf/pexec/status"


def chat(prompt: str = PROMPT, n: int = N_ANSWER) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": n}


def headers(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} | more


async def invoked(one: Site, key: str, **more: str) -> str:
    """The answer of an invocation that is polled for."""
    asked = headers(key, **{"NVCF-POLL-SECONDS": "0"} | more)
    answer = await one.http.post(PEXEC, json=chat(), headers=asked)
    while answer.status_code == 202:
        path = f"{STATUS}/{answer.headers['nvcf-reqid']}"
        answer = await one.http.get(path, headers=headers(key, **{"NVCF-POLL-SECONDS": "5"}))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


async def responding(one: Site, key: str) -> str:
    """The id of a response in the background."""
    asked = {"model": MODEL, "input": PROMPT, "max_output_tokens": N_ANSWER, "background": True}
    made = await one.http.post("/v1/responses", json=asked, headers=headers(key))
    return str(made.json()["id"])


async def responded(one: Site, key: str, response_id: str) -> str:
    """What it says when it has ended."""

    async def ended() -> Any:
        path = f"/v1/responses/{response_id}"
        found = (await one.http.get(path, headers=headers(key))).json()
        return found if found["status"] not in ("queued", "in_progress") else None

    found = await eventually(ended)
    return str(found["output"][0]["content"][0]["text"])


async def batching(one: Site, key: str) -> str:
    """The id of a batch of one line."""
    line = {
        "custom_id": "one",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, **chat()},
    }
    files = {"file": ("in.jsonl", json.dumps(line).encode())}
    made = await one.http.post(
        "/v1/files", data={"purpose": "batch"}, files=files, headers=headers(key)
    )
    batch = {
        "input_file_id": made.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    begun = await one.http.post("/v1/batches", json=batch, headers=headers(key))
    return str(begun.json()["id"])


async def batched(one: Site, key: str, batch_id: str) -> str:
    """What its line was answered."""

    async def ended() -> Any:
        found = (await one.http.get(f"/v1/batches/{batch_id}", headers=headers(key))).json()
        return found if found["status"] == "completed" else None

    found = await eventually(ended)
    path = f"/v1/files/{found['output_file_id']}/content"
    said = json.loads((await one.http.get(path, headers=headers(key))).text)
    return str(said["response"]["body"]["choices"][0]["message"]["content"])


async def invoking(_: Site, key: str) -> str:
    """The key under which an invocation is asked for, as often as need be."""
    return f"mine-{key[-4:]}"


async def invoked_under(one: Site, key: str, idempotency_key: str) -> str:
    """What the invocation says."""
    return await invoked(one, key, **{"Idempotency-Key": idempotency_key})


async def outgoing(a: Site) -> str:
    """The key of a tenant whose data may go to the peer, which is there by now; the site knows
    how long things take, and so that it has no time for them."""
    await peers_ready(a)
    await a.warm()
    mine = await new_key(a.url)
    await a.put("tenants/acme/policy", policy="regions=eu")
    return mine


@asynccontextmanager
async def overflowing(
    tmp_path: Path, token_s: float = 0.04
) -> AsyncIterator[tuple[Site, Site, str]]:
    """A site that is always full, its peer, and the key of a tenant whose data may go there."""
    async with site(tmp_path / "b", Federation("site-b", "eu"), token_s=token_s) as b:
        key = await peer_key(b, "site-a")
        theirs = peer(tmp_path, "site-b", f"{b.url}/v1", "eu", key, is_site=True)
        federation = Federation("site-a", "eu", (theirs,))
        async with site(tmp_path / "a", federation, targets=ALWAYS_FULL) as a:
            mine = await outgoing(a)
            yield a, b, mine


KINDS = [(invoking, invoked_under), (responding, responded), (batching, batched)]


@pytest.mark.parametrize(("begin", "end"), KINDS)
async def test_work_that_nobody_waits_for_is_done_by_a_peer_and_billed_once(
    tmp_path: Path, begin: Any, end: Any
) -> None:
    async with overflowing(tmp_path) as (a, b, mine):
        assert await end(a, mine, await begin(a, mine)) == EXPECTED
        await check_bills(a, b)


async def test_work_stays_where_its_request_says(tmp_path: Path) -> None:
    async with overflowing(tmp_path) as (a, b, mine):
        for policy in ("stay", "regions=us"):
            asked = headers(mine, **{"Airan-Data-Policy": policy})
            answer = await a.http.post(PEXEC, json=chat(), headers=asked)
            assert answer.status_code == 429
        # A batch's lines are asked for later, and still know what its request said.
        a.http.headers["Airan-Data-Policy"] = "stay"
        await batching(a, mine)

        async def line_refused() -> bool:
            return 'refused_total{tier="flex"}' in (await a.http.get("/metrics")).text

        await eventually(line_refused)
        assert (await b.get("stats"))["requests"]["received"] == 0


async def test_an_invocation_from_another_site_must_be_meant_for_this_region(
    tmp_path: Path,
) -> None:
    async with site(tmp_path / "b", Federation("site-b", "eu")) as b:
        key = await peer_key(b, "site-a")
        sent = headers(key, **{"Airan-Via": "site-a", "Airan-Data-Policy": "regions=us"})
        assert (await b.http.post(PEXEC, json=chat(), headers=sent)).status_code == 403


async def test_a_cancelled_response_is_cancelled_at_the_peer_and_costs_what_it_bills(
    tmp_path: Path,
) -> None:
    async with overflowing(tmp_path, token_s=0.1) as (a, b, mine):
        asked = {"model": MODEL, "input": PROMPT, "max_output_tokens": 45, "background": True}
        made = (await a.http.post("/v1/responses", json=asked, headers=headers(mine))).json()

        async def under_way() -> bool:
            return bool((await b.get("stats"))["tokens"]["output"] > 2)

        await eventually(under_way)
        path = f"/v1/responses/{made['id']}/cancel"
        ended = await a.http.post(path, headers=headers(mine))
        assert ended.json()["status"] == "cancelled"
        (theirs_bill,) = (await b.get("usage?tenant=site-a"))["data"]
        assert 0 < theirs_bill["output_tokens"] < 45
        (cost,) = (await a.get("peers"))["costs"]
        assert cost["unheard"] == 0
        assert cost["output_tokens"] == theirs_bill["output_tokens"]


async def check_bills(a: Site, b: Site) -> None:
    """One job at either end, and both books say the same of it."""
    tokens = (len(PROMPT), N_ANSWER)
    (bill,) = (await a.get("usage?tenant=acme"))["data"]
    assert (bill["requests"], bill["input_tokens"], bill["output_tokens"]) == (1, *tokens)
    (theirs_bill,) = (await b.get("usage?tenant=site-a"))["data"]
    assert theirs_bill["requests"] == 1
    assert (theirs_bill["input_tokens"], theirs_bill["output_tokens"]) == tokens
    (cost,) = (await a.get("peers"))["costs"]
    assert (cost["requests"], cost["unheard"]) == (1, 0)
    assert (cost["input_tokens"], cost["output_tokens"]) == tokens
    assert cost["cost_micro_usd"] == PEERS_PRICE.amount_micro_usd(*tokens)


class Dying:
    """A gateway in a process of its own, which may kill itself."""

    def __init__(self, folder: Path, **asked: Any) -> None:
        self.folder = folder
        usual = {"folder": str(folder), "patience_s": 30.0, "is_site": True, "die_at": ""}
        usual["database_url"] = ""
        self._asked = usual | asked

    @asynccontextmanager
    async def running(self, **changes: Any) -> AsyncIterator[tuple[Site, Any]]:
        """Runs it until the block ends, or it has died."""
        command = ("-m", "tests.marketplace.dying_gateway", json.dumps(self._asked | changes))
        with (self.folder / "gateway.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert process.stdout is not None
        try:
            url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
            assert url, (self.folder / "gateway.log").read_text()
            async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                yield Site(url, self.folder, http), process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def dies(self, point: str) -> str:
        """Has it take an invocation and die at that point; the tenant's key."""
        async with self.dying(point) as (a, mine):
            with pytest.raises(httpx.TransportError):
                await invoked(a, mine, **{"Idempotency-Key": "mine"})
        return mine

    @asynccontextmanager
    async def dying(self, point: str) -> AsyncIterator[tuple[Site, str]]:
        """Runs it until it has died at that point of the work that the block asks for."""
        async with self.running(die_at=point) as (a, process):
            mine = await outgoing(a)
            (self.folder / "armed").touch()
            yield a, mine
            await asyncio.wait_for(process.wait(), 30)


@asynccontextmanager
async def two_sites(tmp_path: Path, **asked: Any) -> AsyncIterator[tuple[Dying, Site]]:
    """A gateway that may die, and the peer that its work overflows to."""
    (tmp_path / "a").mkdir()
    async with site(tmp_path / "b", Federation("site-b", "eu")) as b:
        key_file = tmp_path / "site-b.key"
        key_file.write_text(await peer_key(b, "site-a"))
        async with simulated_agent(0.04, 2) as agent:
            yield (
                Dying(
                    tmp_path / "a",
                    **{"agent": agent, "peer": f"{b.url}/v1", "key_file": str(key_file)} | asked,
                ),
                b,
            )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS)
async def test_a_gateway_killed_at_any_point_loses_nothing_and_has_nothing_done_twice(
    tmp_path: Path, point: str
) -> None:
    async with two_sites(tmp_path) as (dying, b):
        mine = await dying.dies(point)
        async with dying.running() as (a, _):
            # Its client knows only the key that it asked under.
            assert await invoked(a, mine, **{"Idempotency-Key": "mine"}) == answer_to(
                PROMPT, N_ANSWER
            )
            if point == "before it is noted":
                # Nothing had left: it was done here.
                assert (await b.get("stats"))["requests"]["received"] == 0
                assert (await a.get("peers"))["costs"] == []
                (bill,) = (await a.get("usage?tenant=acme"))["data"]
                assert (bill["requests"], bill["output_tokens"]) == (1, N_ANSWER)
                return
            await check_bills(a, b)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "point", ["when the peer has it", "before it is billed", "when it is billed"]
)
async def test_on_postgresql_nothing_is_lost_or_done_twice_either(
    tmp_path: Path, postgres_url: str, point: str
) -> None:
    async with two_sites(tmp_path, database_url=postgres_url) as (dying, b):
        mine = await dying.dies(point)
        async with dying.running() as (a, _):
            assert await invoked(a, mine, **{"Idempotency-Key": "mine"}) == EXPECTED
            await check_bills(a, b)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("begin", "end"), KINDS[1:])
async def test_responses_and_batches_outlive_a_gateway_killed_while_a_peer_works(
    tmp_path: Path, begin: Any, end: Any
) -> None:
    async with two_sites(tmp_path) as (dying, b):
        async with dying.dying("when the peer has it") as (a, mine):
            begun = await begin(a, mine)
        async with dying.running() as (a, _):
            assert await end(a, mine, begun) == EXPECTED
            await check_bills(a, b)


@pytest.mark.timeout(120)
async def test_a_cloud_is_not_asked_again_and_its_part_is_told_as_unheard(tmp_path: Path) -> None:
    server = OpenAiServer()
    async with serving(server.app) as url:
        asked = {"peer": url, "is_site": False}
        async with two_sites(tmp_path, **asked) as (dying, _):
            mine = await dying.dies(ON_A_STREAM)
            async with dying.running() as (a, _):
                assert await invoked(a, mine, **{"Idempotency-Key": "mine"}) == EXPECTED
                assert server.bodies == []
                (cost,) = (await a.get("peers"))["costs"]
                assert (cost["requests"], cost["unheard"]) == (1, 1)
                (bill,) = (await a.get("usage?tenant=acme"))["data"]
                assert (bill["requests"], bill["output_tokens"]) == (1, N_ANSWER)


@pytest.mark.timeout(120)
async def test_what_a_cloud_may_have_done_for_a_client_that_waited_is_told_too(
    tmp_path: Path,
) -> None:
    server = OpenAiServer()
    server.waits_after = 2
    async with serving(server.app) as url, two_sites(tmp_path, peer=url, is_site=False) as found:
        dying, _ = found
        async with dying.running() as (a, process):
            mine = await outgoing(a)
            asking = asyncio.create_task(a.ask(mine, PROMPT))
            await eventually(lambda: server.bodies)
            # What was posted before this answer is written by now.
            await a.get("peers")
            process.kill()
            with pytest.raises(httpx.TransportError):
                await asking
        async with dying.running() as (a, _):
            (cost,) = (await a.get("peers"))["costs"]
            assert (cost["requests"], cost["unheard"]) == (1, 1)
            tokens = (cost["input_tokens"], cost["output_tokens"])
            assert tokens == (len(PROMPT), N_CONTEXT - len(PROMPT))
            assert (await a.get("usage?tenant=acme"))["data"] == []


@pytest.mark.timeout(120)
async def test_what_must_not_leave_any_more_is_not_asked_for_with_its_prompt(
    tmp_path: Path,
) -> None:
    async with two_sites(tmp_path) as (dying, b):
        mine = await dying.dies("before it leaves")
        forbid(dying.folder)
        async with dying.running() as (a, _):
            assert await invoked(a, mine, **{"Idempotency-Key": "mine"}) == answer_to(
                PROMPT, N_ANSWER
            )
            assert (await b.get("stats"))["requests"]["received"] == 0
            # Whether the peer had it this gateway cannot know: it counts the most it can cost.
            (cost,) = (await a.get("peers"))["costs"]
            assert (cost["requests"], cost["unheard"]) == (1, 1)
            assert (cost["input_tokens"], cost["output_tokens"]) == (len(PROMPT), N_ANSWER)


@pytest.mark.timeout(120)
async def test_a_peer_that_is_not_heard_of_again_does_not_keep_the_job(tmp_path: Path) -> None:
    async with two_sites(tmp_path, patience_s=1.0) as (dying, _):
        mine = await dying.dies("when the peer has it")
        async with dying.running(peer="http://127.0.0.1:9/v1") as (a, _):
            assert await invoked(a, mine, **{"Idempotency-Key": "mine"}) == answer_to(
                PROMPT, N_ANSWER
            )
            (cost,) = (await a.get("peers"))["costs"]
            assert (cost["requests"], cost["unheard"]) == (1, 1)
            (bill,) = (await a.get("usage?tenant=acme"))["data"]
            assert (bill["requests"], bill["output_tokens"]) == (1, N_ANSWER)


async def test_a_cloud_that_keeps_nothing_is_asked_on_one_stream(tmp_path: Path) -> None:
    server = OpenAiServer()
    async with serving(server.app) as url:
        theirs = peer(tmp_path, "cloud", url, "eu")
        federation = Federation("site-a", "eu", (theirs,))
        async with site(tmp_path / "a", federation, targets=ALWAYS_FULL) as a:
            mine = await outgoing(a)
            assert await invoked(a, mine) == "".join(WORDS[:N_ANSWER])
            assert len(server.bodies) == 1
            (cost,) = (await a.get("peers"))["costs"]
            assert (cost["requests"], cost["unheard"]) == (1, 0)


def forbid(folder: Path) -> None:
    """What an operator at another gateway would do meanwhile."""
    from marketplace.store.connect import open_database
    from marketplace.store.peering import Peering

    engine = open_database(f"sqlite:///{folder / 'marketplace.db'}")
    Peering(engine).set_policy("acme", "stay")
    engine.dispose()
