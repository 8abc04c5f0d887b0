"""What must not happen between sites: circles, work for peers that costs our tenants, and prompts
beyond the regions that their tenants allow."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import ConfigError, ForbiddenError, InvalidInputError
from marketplace.federation.peers import Federation, Peer
from marketplace.federation.policy import STAY, DataPolicy, parse_policy
from marketplace.federation.travel import Origin, Sending, origin_of
from marketplace.gateway import Price
from marketplace.store.accounts import Accounts
from marketplace.store.connect import open_database
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.ledger import Ledger
from marketplace.store.peering import PeerCost, Peering
from marketplace.store.sendings import Sendings
from tests.marketplace.federated import (
    ALWAYS_FULL,
    answer_to,
    new_key,
    peer,
    peer_key,
    peers_ready,
    site,
)
from tests.marketplace.openai_server import OpenAiServer, serving

REGIONS = ("eu", "us", "asia")
TAGS = ("no-training", "no-retention")
words = st.frozensets(st.sampled_from(REGIONS))
policies = st.builds(DataPolicy, words, st.frozensets(st.sampled_from(TAGS)))


@given(policies, policies, st.sampled_from(REGIONS), st.frozensets(st.sampled_from(TAGS)))
def test_a_narrowed_policy_allows_what_both_allow(
    one: DataPolicy, other: DataPolicy, region: str, promises: frozenset[str]
) -> None:
    both = one.allows(region, promises) and other.allows(region, promises)
    assert one.narrowed(other).allows(region, promises) == both
    assert one.narrowed(None) == one


@given(policies)
def test_a_policy_is_read_as_it_is_written(policy: DataPolicy) -> None:
    read = parse_policy(str(policy))
    assert read == (policy if policy.regions else STAY)


@given(st.text(max_size=60))
def test_what_is_no_policy_is_refused_or_allows_only_what_it_says(text: str) -> None:
    try:
        policy = parse_policy(text)
    except InvalidInputError:
        return
    assert all(region in text for region in policy.regions)


@pytest.mark.parametrize(
    "text",
    ["", "regions=", "regions=*", "regions=EU", "needs=x", "regions=eu;regions=us", "eu", "Stay"],
)
def test_no_word_for_everywhere_is_taken_as_a_policy(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"data policy|names no regions"):
        parse_policy(text)


def test_a_request_goes_no_further_than_its_hops_and_never_back() -> None:
    origin = origin_of(["site-a, site-b", "site-c"], None)
    assert origin.via == ("site-a", "site-b", "site-c")
    assert not origin.may_go_on("site-b", 9)
    assert not origin.may_go_on("site-d", 3)
    assert origin.may_go_on("site-d", 4)
    assert Origin().may_go_on("site-a", 1)
    for wrong in (["a,,b"], [""], ["A"], [",".join("s" * 17)]):
        with pytest.raises(InvalidInputError, match="names of sites"):
            origin_of(wrong, None)


def test_a_site_takes_from_others_only_what_may_be_in_its_region() -> None:
    Origin().check_here("")
    Origin(("site-a",), parse_policy("regions=eu,us")).check_here("us")
    for narrows, here in ((None, "eu"), (STAY, "eu"), (parse_policy("regions=eu"), "us")):
        with pytest.raises(ForbiddenError, match="must not leave its regions"):
            Origin(("site-a",), narrows).check_here(here)


def test_a_peer_without_a_proper_name_or_region_is_refused() -> None:
    for name, region in (("Site", "eu"), ("site-b", ""), ("site-b", "*")):
        with pytest.raises(ConfigError):
            Peer(name, region, {}, Price(1, 1))
    with pytest.raises(ConfigError, match="names of their own"):
        Federation("site-b", "eu", (Peer("site-b", "eu", {}, Price(1, 1)),))


def test_policies_peers_and_costs_are_kept_on_either_database(database_url: str) -> None:
    engine = open_database(database_url)
    accounts, peering = Accounts(engine), Peering(engine)
    made = accounts.create_tenant("acme", 0.0)
    assert (made["data_policy"], made["peer"]) == ("stay", False)
    assert peering.policy_of(made["id"]) == STAY
    assert peering.set_policy("acme", "regions=us,eu")["data_policy"] == "regions=eu,us"
    assert peering.policy_of(made["id"]).allows("us", ())
    with pytest.raises(InvalidInputError):
        peering.set_policy("acme", "regions=*")
    key = Keys(engine).create("acme", KeySpec("k"), 0.0)
    assert not Keys(engine).principal(key["id"]).is_peer
    assert peering.set_peer("acme", True)["peer"]
    found = Keys(engine).authenticate(str(key["key"]), 1.0)
    assert found is not None
    assert found.is_peer
    row = {"id": "job", "kind": "sync", "tenant_id": made["id"], "key_id": key["id"]}
    Ledger(engine).add_job(row | {"model": "m", "request": None, "input_tokens": 0}, 0.0)
    cost = PeerCost("job", "site-b", "m", 10, 20, 300, 1.0)
    for _ in range(2):
        peering.note_cost(cost)
    (shown,) = peering.costs()
    assert (shown["requests"], shown["cost_micro_usd"], shown["unheard"]) == (1, 300, 0)
    sendings = Sendings(engine)
    sent = Sending("job", "site-c", "invocation", "site-a", "regions=eu", 2.0)
    for _ in range(2):
        sendings.begin(sent)
    sendings.accepted("job", "site-c", "theirs-1")
    assert sendings.open(["job"]) == {"job": replace(sent, remote_id="theirs-1")}
    most = replace(cost, peer="site-c", heard=False)
    sendings.end("job", "site-c", "unheard", most)
    # What is heard, or not, afterwards changes nothing.
    sendings.end("job", "site-c", "answered", replace(most, heard=True, cost_micro_usd=1))
    assert sendings.open(["job"]) == {}
    unheard = {row["peer"]: (row["unheard"], row["cost_micro_usd"]) for row in peering.costs()}
    assert unheard == {"site-b": (0, 300), "site-c": (1, 300)}
    engine.dispose()


async def test_two_full_sites_do_not_pass_a_request_to_and_fro(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        relay = Relay()
        at = await stack.enter_async_context(serving(relay))  # type: ignore[arg-type]
        back = peer(tmp_path, "site-a", at, "eu")
        federation = Federation("site-b", "eu", (back,))
        b = await stack.enter_async_context(
            site(tmp_path / "b", federation, token_s=0.0, targets=ALWAYS_FULL)
        )
        there = peer(tmp_path, "site-b", f"{b.url}/v1", "eu", await peer_key(b, "site-a"))
        a = await stack.enter_async_context(
            site(tmp_path / "a", Federation("site-a", "eu", (there,)), targets=ALWAYS_FULL)
        )
        await b.put("tenants/site-a/policy", policy="regions=eu")
        relay.key, relay.url = await peer_key(a, "site-b", "regions=eu"), f"{a.url}/v1"
        await peers_ready(a)
        await peers_ready(b)
        await a.warm()
        await b.warm()
        mine = await new_key(a.url)
        await a.put("tenants/acme/policy", policy="regions=eu")
        answer = await a.ask(mine, "round and round")
        assert answer.json()["choices"][0]["message"]["content"] == answer_to("round and round")
        assert relay.ways == []
        assert (await b.get("stats"))["requests"]["received"] == 1
        assert len((await a.get("usage?tenant=acme"))["data"]) == 1
        assert (await a.get("peers"))["costs"] == []


async def test_a_circle_of_three_full_sites_ends_where_it_closes(tmp_path: Path) -> None:
    """Even where the last one knows the first by another name."""
    async with AsyncExitStack() as stack:
        relay = Relay()
        at = await stack.enter_async_context(serving(relay))  # type: ignore[arg-type]
        sites = {}
        next_url, next_name, next_key = at, "elsewhere", "sk-any"
        for name in ("site-c", "site-b", "site-a"):
            theirs = peer(tmp_path, next_name, next_url, "eu", next_key)
            federation = Federation(name, "eu", (theirs,), max_hops=9)
            one = await stack.enter_async_context(
                site(tmp_path / name, federation, token_s=0.0, targets=ALWAYS_FULL)
            )
            sites[name] = one
            next_key = await peer_key(one, "upstream", "regions=eu")
            # By a name that is not on the way: only the site itself sees that it was there.
            next_url, next_name = f"{one.url}/v1", f"other-{name}"
        relay.key, relay.url = next_key, next_url
        for one in sites.values():
            await one.warm()
            await peers_ready(one)
        mine = await new_key(sites["site-a"].url)
        await sites["site-a"].put("tenants/acme/policy", policy="regions=eu")
        answer = await sites["site-a"].ask(mine, "in a circle")
        assert answer.json()["choices"][0]["message"]["content"] == answer_to("in a circle")
        assert relay.ways == ["site-a,site-b,site-c"]
        for one in sites.values():
            assert (await one.get("stats"))["requests"]["running"] == 0
            # Each bills whom it answered, once: what it warmed up with, and this.
            billed = (await one.get("usage"))["data"]
            assert [row["requests"] for row in billed] in ([1, 1], [1])


class Relay:
    """Passes requests on to the first site, as the last one's peer; notes which way they came."""

    def __init__(self) -> None:
        self.url = self.key = ""
        self.ways: list[str] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        import httpx
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response

        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.method == "GET":
            await JSONResponse({"data": []})(scope, receive, send)
            return
        self.ways.append(request.headers["airan-via"])
        kept = {
            name: request.headers[name]
            for name in ("airan-via", "airan-data-policy", "idempotency-key")
        }
        headers = kept | {"authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(timeout=30) as http:
            url = f"{self.url}/chat/completions"
            answer = await http.post(url, content=await request.body(), headers=headers)
        await Response(answer.content, answer.status_code)(scope, receive, send)


async def test_peers_work_runs_in_flex_while_compute_is_free(tmp_path: Path) -> None:
    async with site(tmp_path / "b", Federation("site-b", "eu")) as b:
        key = await peer_key(b, "site-a")
        way = {"airan_via": "site-a", "airan_data_policy": "regions=eu"}
        welcome = await b.ask(key, "hello", **way)
        assert welcome.json()["service_tier"] == "flex"
        abroad = await b.ask(key, "hello", airan_via="site-a", airan_data_policy="regions=us")
        assert (abroad.status_code, abroad.json()["error"]["code"]) == (403, "permission_denied")
        assert (await b.ask(key, "hello", airan_via="site-a")).status_code == 403
        long = await b.fill(await new_key(b.url))
        refused = await b.ask(key, "hello", **way)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        for task in long:
            assert (await task).status_code == 200
        assert (await b.ask(key, "hello", **way)).status_code == 200


@pytest.mark.parametrize("seed", range(3))
async def test_no_prompt_ever_reaches_a_peer_outside_its_tenants_regions(
    tmp_path: Path, seed: int
) -> None:
    """Random tenants, policies and requests; two full sites in a row, and peers behind both."""
    chance = random.Random(seed)
    servers = {
        (owner, region, tag): OpenAiServer()
        for owner in ("a", "b")
        for region in REGIONS
        for tag in ("", TAGS[0])
    }
    allowed: dict[str, tuple[set[str], set[str]]] = {}
    async with AsyncExitStack() as stack:
        behind: dict[str, list[Peer]] = {"a": [], "b": []}
        for (owner, region, tag), server in servers.items():
            url = await stack.enter_async_context(serving(server.app))
            price = Price(chance.randrange(1000), chance.randrange(1000))
            promises = frozenset({tag}) if tag else frozenset[str]()
            name = f"{owner}-{region}-{tag or 'plain'}"
            behind[owner].append(
                peer(tmp_path, name, url, region, price=price, promises=promises, max_concurrent=1)
            )
        federation = Federation("site-b", "eu", tuple(behind["b"]))
        b = await stack.enter_async_context(
            site(tmp_path / "b", federation, token_s=0.0, targets=ALWAYS_FULL)
        )
        key = await peer_key(b, "site-a", "regions=eu,us,asia")
        through = peer(tmp_path, "site-b", f"{b.url}/v1", "eu", key, price=Price(0, 0))
        federation = Federation("site-a", "eu", (through, *behind["a"]))
        a = await stack.enter_async_context(
            site(tmp_path / "a", federation, token_s=0.0, targets=ALWAYS_FULL)
        )
        await peers_ready(a, 7)
        await peers_ready(b, 6)
        await a.warm()
        await b.warm()
        tenants = [f"tenant-{n}" for n in range(4)]
        keys = {tenant: await new_key(a.url, tenant) for tenant in tenants}
        current = dict.fromkeys(tenants, STAY)
        n_answered = 0
        for n in range(60):
            tenant = chance.choice(tenants)
            if chance.random() < 0.4:
                current[tenant] = drawn(chance)
                await a.put(f"tenants/{tenant}/policy", policy=str(current[tenant]))
            asked = drawn(chance) if chance.random() < 0.4 else None
            prompt = f"p{n}."
            regions, needs = set(current[tenant].regions), set(current[tenant].needs)
            if asked is not None:
                regions, needs = regions & asked.regions, needs | asked.needs
            allowed[prompt] = (regions, needs)
            headers = {} if asked is None else {"airan_data_policy": str(asked)}
            if chance.random() < 0.3:
                chance.choice(list(servers.values())).breaks_after = chance.randrange(3)
            answer = await a.ask(keys[tenant], prompt, **headers)
            assert answer.status_code in (200, 429)
            n_answered += answer.status_code == 200
            if not regions:
                assert answer.status_code == 429
    seen = 0
    for (owner, region, tag), server in servers.items():
        promises = {tag} if tag else set()
        for body in server.bodies:
            prompt = body["messages"][0]["content"]
            regions, needs = allowed[prompt]
            assert region in regions, (prompt, owner, region)
            assert needs <= promises, (prompt, owner, region)
            # What went over the second site was allowed to be there too, which promises nothing.
            assert owner == "a" or ("eu" in regions and not needs)
            seen += 1
    assert seen
    assert n_answered


def drawn(chance: random.Random) -> DataPolicy:
    """Any policy."""
    regions = frozenset(region for region in REGIONS if chance.random() < 0.5)
    needs = frozenset(TAGS[:1]) if chance.random() < 0.3 else frozenset[str]()
    return parse_policy(str(DataPolicy(regions, needs)))
