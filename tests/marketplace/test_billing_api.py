"""Money and accounts over HTTP: the operator's side, the tenant's, and whom neither lets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from marketplace.gateway.settings import OidcSettings
from tests.marketplace.issuer import AUDIENCE, running_issuer
from tests.marketplace.site import ADMIN_KEY, MODEL, gateway_settings, running_gateway

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}


class Caller:
    """One HTTP client with one key."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def __call__(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        answer = await self.send(method, path, body, **params)
        assert answer.is_success, answer.text
        return answer.json()

    async def send(self, method: str, path: str, body: Any = None, **params: Any) -> httpx.Response:
        return await self.http.request(method, path, json=body, params=params)


@asynccontextmanager
async def calling(url: str, key: str) -> AsyncIterator[Caller]:
    caller = Caller(url, key)
    try:
        yield caller
    finally:
        await caller.http.aclose()


@asynccontextmanager
async def shop(folder: Path, *engines: str, **settings: Any) -> AsyncIterator[tuple[str, Caller]]:
    """A gateway and its operator."""
    asked = replace(gateway_settings(folder, *engines), **settings)
    async with running_gateway(asked) as url, calling(url, ADMIN_KEY) as admin:
        await admin("POST", "/admin/v1/tenants", {"name": "acme"})
        yield url, admin


async def make_key(admin: Caller, **body: Any) -> dict[str, Any]:
    return await admin("POST", "/admin/v1/keys", {"tenant": "acme"} | body)


async def test_a_tenant_sees_its_money_from_the_quote_to_the_invoice(
    tmp_path: Path, agent_url: str, database_url: str
) -> None:
    async with shop(tmp_path, agent_url, database_url=database_url) as (url, admin):
        await admin("POST", "/admin/v1/projects", {"tenant": "acme", "name": "web"})
        price = {"model": MODEL, "input_micro_usd_per_1k": 0, "output_micro_usd_per_1k": 2_000_000}
        await admin("POST", "/admin/v1/prices", price)
        budget = {"tenant": "acme", "limit_micro_usd": 25_000, "alerts_percent": [40]}
        await admin("POST", "/admin/v1/budgets", budget)
        quota = {"tenant": "acme", "requests_per_day": 100}
        await admin("PUT", "/admin/v1/quotas", quota)
        made = await make_key(admin, project="web")
        whole = await make_key(admin, scopes=["billing:read"])
        async with calling(url, made["key"]) as tenant, calling(url, whole["key"]) as owner:
            first = await tenant.send("POST", "/v1/chat/completions", CHAT)
            used = first.json()["usage"]["completion_tokens"]
            assert first.headers["x-ratelimit-limit-requests"] == "100"
            assert first.headers["x-ratelimit-remaining-requests"] == "99"
            refused = await tenant.send("POST", "/v1/chat/completions", CHAT | {"max_tokens": 20})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "insufficient_quota"
            assert refused.headers["x-should-retry"] == "false"
            usage = await tenant("GET", "/v1/usage", group_by="project,model", bucket="day")
            (row,) = usage["data"]
            assert (row["project"], row["model"], row["requests"]) == ("web", MODEL, 1)
            assert usage["total_micro_usd"] == used * 2000
            found = await tenant.send("GET", "/v1/usage", group_by="project,model", format="csv")
            table = found.text.splitlines()
            assert table[0] == "project,model,requests,input_tokens,output_tokens,amount_micro_usd"
            assert table[1:] == [f"web,{MODEL},1,{row['input_tokens']},{used},{used * 2000}"]
            costs = await admin.send("GET", "/admin/v1/costs", tenant="acme", format="csv")
            assert costs.headers["content-type"].startswith("text/csv")
            assert costs.text.splitlines()[1].endswith(f",{used},{used * 2000}")
            assert (await tenant.send("GET", "/v1/account")).status_code == 403
            account = await owner("GET", "/v1/account")
            assert account["owed_micro_usd"] == used * 2000
            assert account["budgets"][0]["spent_micro_usd"] == used * 2000
            assert account["budgets"][0]["reserved_micro_usd"] == 0
            month = datetime.now(UTC).strftime("%Y-%m")
            invoice = await owner("GET", f"/v1/invoices/{month}")
            assert invoice["charges_micro_usd"] == used * 2000
            csv = await owner.send("GET", f"/v1/invoices/{month}", format="csv")
            assert csv.headers["content-type"].startswith("text/csv")
            assert f"web,{MODEL},default,1," in csv.text
            pdf = await owner.send("GET", f"/v1/invoices/{month}", format="pdf")
            assert pdf.content.startswith(b"%PDF-")
            assert (await owner.send("POST", "/v1/chat/completions", CHAT)).status_code == 403
        events = (await admin("GET", "/admin/v1/events"))["data"]
        assert [row for row in events if row["kind"] == "budget.alert"]
        assert (await admin("GET", "/admin/v1/books/check"))["problems"] == []
        paid = {"tenant": "acme", "amount_micro_usd": used * 2000, "reference": "bank-1"}
        assert (await admin("POST", "/admin/v1/payments", paid))["kind"] == "payment"
        account = await admin("GET", "/admin/v1/books/account", tenant="acme")
        assert (account["owed_micro_usd"], account["prepaid_micro_usd"]) == (0, 0)
        log = await admin("GET", "/admin/v1/books/transactions", tenant="acme")
        assert {row["kind"] for row in log["data"]} == {"charge", "payment"}


async def test_many_clients_at_once_do_not_get_past_a_hard_budget(
    tmp_path: Path, agent_url: str
) -> None:
    async with shop(tmp_path, agent_url) as (url, admin):
        price = {"model": MODEL, "input_micro_usd_per_1k": 0, "output_micro_usd_per_1k": 1000}
        await admin("POST", "/admin/v1/prices", price)
        await admin("POST", "/admin/v1/budgets", {"tenant": "acme", "limit_micro_usd": 43})
        key = (await make_key(admin))["key"]
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

        async def ask() -> int:
            try:
                answer = await client.chat.completions.create(**CHAT)
            except openai.RateLimitError:
                return 0
            return answer.usage.completion_tokens

        async with client:
            spent = sum(await asyncio.gather(*(ask() for _ in range(30))))
        (budget,) = (await admin("GET", "/admin/v1/budgets", tenant="acme"))["data"]
        assert 0 < budget["spent_micro_usd"] == spent <= 43
        assert budget["reserved_micro_usd"] == 0


async def test_a_key_may_do_what_its_scopes_and_models_say(tmp_path: Path) -> None:
    async with shop(tmp_path) as (url, admin):
        key = (await make_key(admin, scopes=["files"], models=["another"]))["key"]
        async with calling(url, key) as caller:
            assert (await caller.send("GET", "/v1/files")).status_code == 200
            for path in ("/v1/models", "/v1/usage", "/v1/keys"):
                answer = await caller.send("GET", path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    403,
                    "permission_denied",
                )
        limited = (await make_key(admin, models=["another"]))["key"]
        async with calling(url, limited) as caller:
            answer = await caller.send("POST", "/v1/chat/completions", CHAT)
            assert answer.status_code == 403
            assert MODEL in answer.json()["error"]["message"]


async def test_a_tenant_manages_its_keys_and_sees_nobody_elses(tmp_path: Path) -> None:
    async with shop(tmp_path) as (url, admin):
        await admin("POST", "/admin/v1/tenants", {"name": "beta"})
        foreign = await admin("POST", "/admin/v1/keys", {"tenant": "beta"})
        own = await make_key(admin, scopes=["keys:write", "billing:read"])
        async with calling(url, own["key"]) as owner:
            made = await owner("POST", "/v1/keys", {"name": "ci"})
            assert {row["id"] for row in (await owner("GET", "/v1/keys"))["data"]} == {
                own["id"],
                made["id"],
            }
            more = await owner.send("POST", "/v1/keys", {"scopes": ["keys:write"]})
            assert more.status_code == 403
            for method, path in (("DELETE", ""), ("POST", "/rotate")):
                answer = await owner.send(method, f"/v1/keys/{foreign['id']}{path}", {})
                assert answer.status_code == 404
            rotated = await owner("POST", f"/v1/keys/{made['id']}/rotate", {"grace_s": 0})
            async with calling(url, made["key"]) as old, calling(url, rotated["key"]) as new:
                assert (await old.send("GET", "/v1/models")).status_code == 401
                assert (await new.send("GET", "/v1/models")).status_code == 200
                await owner("DELETE", f"/v1/keys/{rotated['id']}")
                assert (await new.send("GET", "/v1/models")).status_code == 401


async def test_people_log_in_with_their_providers_token(tmp_path: Path) -> None:
    async with running_issuer() as issuer:
        oidc = OidcSettings(issuer.url, AUDIENCE)
        async with shop(tmp_path, oidc=oidc) as (url, admin):
            now_s = datetime.now(UTC).timestamp()
            async with calling(url, issuer.token(now_s)) as stranger:
                assert (await stranger.send("GET", "/v1/account")).status_code == 401
            user = {"tenant": "acme", "email": "ada@acme.example", "role": "owner"}
            made = await admin("POST", "/admin/v1/users", user)
            async with calling(url, issuer.token(now_s)) as ada:
                assert (await ada("GET", "/v1/account"))["owed_micro_usd"] == 0
                assert (await ada("POST", "/v1/keys", {"scopes": ["keys:write"]}))["key"]
                refused = await ada.send("POST", "/v1/chat/completions", CHAT)
                assert refused.status_code == 403
                await admin("DELETE", f"/admin/v1/users/{made['id']}")
                assert (await ada.send("GET", "/v1/account")).status_code == 401
            async with calling(url, issuer.token(now_s, aud="other")) as eve:
                assert (await eve.send("GET", "/v1/account")).json()["error"]["code"] == (
                    "invalid_token"
                )
            # Keys work beside logins.
            key = (await make_key(admin))["key"]
            async with calling(url, key) as program:
                assert (await program.send("GET", "/v1/models")).status_code == 200


async def test_flex_is_quoted_by_the_free_capacity(tmp_path: Path) -> None:
    async with shop(tmp_path) as (url, admin):
        price = {
            "model": MODEL,
            "tier": "flex",
            "input_micro_usd_per_1k": 1000,
            "output_micro_usd_per_1k": 2000,
            "spot_floor_permille": 400,
        }
        set_price = await admin("POST", "/admin/v1/prices", price)
        async with calling(url, (await make_key(admin))["key"]) as tenant:
            rows = (await tenant("GET", "/v1/prices"))["data"]
            found = {row["tier"]: row["input_micro_usd_per_1k"] for row in rows}
            # Without an engine nothing is free.
            assert found == {"priority": 10_000, "default": 10_000, "flex": 1000}
            await admin("DELETE", f"/admin/v1/prices/{set_price['id']}")
            rows = (await tenant("GET", "/v1/prices"))["data"]
            assert {row["input_micro_usd_per_1k"] for row in rows} == {10_000}


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "tenants", {"name": "x", "terms": "gratis"}, "terms"),
        ("POST", "keys", {"tenant": "acme", "scopes": ["root"]}, "scopes"),
        ("POST", "keys", {"tenant": "acme", "colour": 1}, "colour"),
        ("POST", "users", {"tenant": "acme", "email": "nobody"}, "email"),
        ("POST", "prices", {"model": "m", "input_micro_usd_per_1k": 1}, "output_micro_usd_per_1k"),
        ("POST", "budgets", {"tenant": "acme", "limit_micro_usd": -1}, "limit_micro_usd"),
        ("POST", "budgets", {"tenant": "acme", "limit_micro_usd": 1.5}, "limit_micro_usd"),
        ("PUT", "quotas", {"tenant": "acme", "concurrent_jobs": -1}, "concurrent_jobs"),
        ("POST", "payments", {"tenant": "acme", "amount_micro_usd": 0, "reference": "r"}, None),
        ("GET", "costs?bucket=eon", None, "bucket"),
        ("GET", "costs?start_time=nan", None, "start_time"),
        ("GET", "costs?start_time=soon", None, "start_time"),
        ("GET", "costs?group_by=colour", None, "group_by"),
        ("GET", "invoices/acme/2026-13", None, "month"),
        ("GET", "invoices/acme/2026-11?format=xls", None, "format"),
    ],
)
async def test_a_wrong_value_is_named(
    tmp_path: Path, method: str, path: str, body: Any, param: str | None
) -> None:
    async with shop(tmp_path) as (_, admin):
        answer = await admin.http.request(method, f"/admin/v1/{path}", json=body)
        assert answer.status_code == 400, answer.text
        if param is not None:
            assert answer.json()["error"]["param"] == param


async def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    async with shop(tmp_path) as (_, admin):
        for method, path in (
            ("GET", "budgets?tenant=nobody"),
            ("GET", "invoices/nobody/2026-11"),
            ("GET", "books/account?tenant=nobody"),
            ("DELETE", "budgets/none"),
            ("DELETE", "prices/9"),
            ("DELETE", "users/none"),
            ("DELETE", "projects/none"),
        ):
            answer = await admin.http.request(method, f"/admin/v1/{path}")
            assert answer.status_code == 404, path
