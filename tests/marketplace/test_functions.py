"""Functions: containers called over HTTP, at least once each, and billed once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from aiohttp import web

from airan.core.errors import InvalidInputError
from marketplace.gateway.errors import ApiError
from marketplace.gateway.results import ResultLinks
from marketplace.outbound import AllowedHosts
from marketplace.store.connect import open_database
from marketplace.store.database import Database
from marketplace.store.secrets import SharedSecrets
from tests.marketplace.container import Container, running_container
from tests.marketplace.site import (
    ADMIN_KEY,
    MODEL,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

PRICE = 250


class Caller:
    """A tenant's client."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    async def __call__(self, method: str, path: str, **extra: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", "NVCF-POLL-SECONDS": "20"}
        headers |= extra.pop("headers", {})
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
            return await http.request(method, path, headers=headers, **extra)

    async def deploy(self, container: Container, **changes: Any) -> dict[str, Any]:
        body = {"name": "echo", "url": f"http://{container.host}", "inferenceUrl": "/infer"}
        made = await self("POST", "/v2/nvcf/functions", json=body | changes)
        assert made.status_code == 201, made.text
        return made.json()["function"]

    async def invoke(self, function: dict[str, Any], body: Any = None, **extra: Any) -> Any:
        path = f"/v2/nvcf/pexec/functions/{function['id']}"
        return await self("POST", path, json={"n": 1} if body is None else body, **extra)

    async def status(self, sent: httpx.Response, poll_s: str = "20") -> httpx.Response:
        path = f"/v2/nvcf/pexec/status/{sent.headers['nvcf-reqid']}"
        return await self("GET", path, headers={"NVCF-POLL-SECONDS": poll_s})


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    async with running_container() as running:
        yield running


@asynccontextmanager
async def gateway(
    state_dir: Path, container: Container, key: str | None = None, **changes: Any
) -> AsyncIterator[Caller]:
    settings = gateway_settings(state_dir, "http://127.0.0.1:9")
    changes = {"function_hosts": (container.host,), "function_price_micro_usd": PRICE} | changes
    async with running_gateway(replace(settings, **changes)) as url:
        yield Caller(url, key or await new_key(url))


async def test_a_container_is_invoked_and_billed_by_the_invocation(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
        assert function["status"] == "ACTIVE"
        done = await tenant.invoke(function, {"x": [1, 2]})
        assert (done.status_code, done.headers["nvcf-status"]) == (200, "fulfilled")
        assert done.json() == {"x": [1, 2]}
        (got,) = container.received
        assert got.path == "/infer"
        assert got.headers["idempotency-key"] == done.headers["nvcf-reqid"]
        assert got.headers["nvcf-function-version-id"] == function["versionId"]
        # The tenant's key is for this gateway only.
        assert "authorization" not in got.headers
        assert (await tenant.status(done)).json() == {"x": [1, 2]}
        usage = await admin_get(tenant.url, "usage")
        assert [(row["model"], row["requests"]) for row in usage["data"]] == [("echo", 1)]
        assert usage["total_micro_usd"] == PRICE


async def test_an_invocation_that_takes_longer_is_polled_for_and_has_a_place_in_line(
    tmp_path: Path, container: Container
) -> None:
    container.go.clear()
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
        sent = await tenant.invoke(function, headers={"NVCF-POLL-SECONDS": "0"})
        assert sent.status_code == 202
        await eventually(lambda: container.received)
        pending = await tenant.status(sent, "0")
        assert (pending.status_code, pending.headers["nvcf-status"]) == (202, "in-progress")
        reqid = sent.headers["nvcf-reqid"]
        place = await tenant("GET", f"/v2/nvcf/queues/{reqid}/position")
        assert place.json() == {
            "functionId": function["id"],
            "functionVersionId": function["versionId"],
            "positionInQueue": 0,
        }
        depth = await tenant("GET", f"/v2/nvcf/queues/functions/{function['id']}")
        assert depth.json()["queues"][0]["queueDepth"] == 0
        container.go.set()
        assert (await tenant.status(sent)).status_code == 200


async def test_work_for_a_model_has_its_place_in_line(tmp_path: Path, container: Container) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container, url=None, model=MODEL, name="chat")
        sent = [
            await tenant.invoke(function, body, headers={"NVCF-POLL-SECONDS": "0"})
            for _ in range(2)
        ]
        assert [one.headers["nvcf-status"] for one in sent] == ["pending-evaluation"] * 2
        places = []
        for one in sent:
            path = f"/v2/nvcf/queues/{one.headers['nvcf-reqid']}/position"
            places.append((await tenant("GET", path)).json()["positionInQueue"])
        assert places == [1, 2]
        depth = await tenant("GET", f"/v2/nvcf/queues/functions/{function['id']}")
        assert depth.json()["queues"][0]["queueDepth"] == 2


async def test_a_container_that_fails_in_passing_is_called_again_under_the_same_key(
    tmp_path: Path, container: Container
) -> None:
    container.answers = [web.Response(status=503), web.Response(status=500)]
    async with gateway(tmp_path, container) as tenant:
        done = await tenant.invoke(await tenant.deploy(container))
        assert done.status_code == 200
        assert len(container.received) == 3
        assert len(set(container.requests_named("idempotency-key"))) == 1
        assert (await admin_get(tenant.url, "usage"))["total_micro_usd"] == PRICE


async def test_what_the_container_refuses_is_rejected_and_not_billed(
    tmp_path: Path, container: Container
) -> None:
    container.answers = [web.Response(status=422, text="no such image")]
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
        refused = await tenant.invoke(function)
        assert (refused.status_code, refused.headers["nvcf-status"]) == (502, "rejected")
        assert "422: no such image" in refused.json()["error"]["message"]
        container.answers = [web.Response(status=302, headers={"Location": "http://127.0.0.1/"})]
        assert (await tenant.invoke(function)).headers["nvcf-status"] == "rejected"
        assert (await admin_get(tenant.url, "usage"))["total_micro_usd"] == 0


async def test_an_answer_over_the_functions_limit_is_an_error(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container, maxResponseBytes=100)
        assert (await tenant.invoke(function, "x" * 90)).status_code == 200
        long = await tenant.invoke(function, "x" * 200)
        assert (long.status_code, long.headers["nvcf-status"]) == (502, "errored")
        assert long.json()["error"]["code"] == "result_too_large"


async def test_a_large_result_is_fetched_from_a_signed_address(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container, large_result_bytes=1000) as tenant:
        function = await tenant.deploy(container)
        moved = await tenant.invoke(function, "y" * 5000)
        assert (moved.status_code, moved.headers["nvcf-status"]) == (302, "fulfilled")
        location = moved.headers["location"]
        async with httpx.AsyncClient(timeout=30) as http:
            assert (await http.get(location)).json() == "y" * 5000
            for wrong in ("tenant=ten_", "expires=9", "signature=0"):
                name = wrong.partition("=")[0]
                forged = location.replace(f"{name}=", wrong)
                assert (await http.get(forged)).status_code == 403, wrong
        other = Caller(tenant.url, await new_key(tenant.url, "other"))
        assert (await other("GET", location)).status_code == 403
        assert (await other.status(moved)).status_code == 404


async def test_a_signed_address_expires_and_outlives_the_gateway(database_url: str) -> None:
    def links(db: Database) -> ResultLinks:
        return ResultLinks(lambda: db.call(db.secrets.get, "results"))

    first, later = Database(database_url), Database(database_url)
    query = dict(parse_qsl(await links(first).query("job", "ten_1", 1000.0)))
    expires = int(query["expires"])
    # Another gateway of the same database, beside it or after it, has the same key.
    check = links(later).check
    await check("job", "ten_1", expires, query["signature"], expires - 1.0)
    with pytest.raises(ApiError) as expired:
        await check("job", "ten_1", expires, query["signature"], float(expires))
    assert (expired.value.status, expired.value.code) == (403, "expired")
    for job_id, tenant_id, until in (
        ("other", "ten_1", expires),
        ("job", "ten_2", expires),
        ("job", "ten_1", expires + 1),
    ):
        with pytest.raises(ApiError):
            await check(job_id, tenant_id, until, query["signature"], 1000.0)
    for db in (first, later):
        db.close()


def test_all_who_ask_first_at_once_get_the_same_secret(database_url: str) -> None:
    engine = open_database(database_url)
    with ThreadPoolExecutor(4) as pool:
        got = set(pool.map(SharedSecrets(engine).get, ["one"] * 8))
    assert [len(one) for one in got] == [32]
    assert got != {SharedSecrets(engine).get("two")}
    engine.dispose()


async def test_an_open_invocation_outlives_the_gateway_and_is_billed_once(
    tmp_path: Path, container: Container
) -> None:
    container.go.clear()
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
        sent = await tenant.invoke(
            function, headers={"NVCF-POLL-SECONDS": "0", "Idempotency-Key": "one"}
        )
        await eventually(lambda: container.received)
    container.go.set()
    async with gateway(tmp_path, container, tenant.key) as tenant:
        assert (await tenant.status(sent)).json() == {"n": 1}
        # Called a second time, as it must be, under the same name.
        assert container.requests_named("idempotency-key") == [sent.headers["nvcf-reqid"]] * 2
        again = await tenant.invoke(function, headers={"Idempotency-Key": "one"})
        assert again.headers["nvcf-reqid"] == sent.headers["nvcf-reqid"]
        assert len(container.received) == 2
        assert (await admin_get(tenant.url, "usage"))["total_micro_usd"] == PRICE


async def test_functions_have_versions_and_belong_to_their_tenant(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        first = await tenant.deploy(container)
        path = f"/v2/nvcf/functions/{first['id']}/versions"
        body = {"name": "echo", "url": f"http://{container.host}", "inferenceUrl": "/v2"}
        second = (await tenant("POST", path, json=body)).json()["function"]
        await tenant.invoke(first)
        by_version = f"/v2/nvcf/pexec/functions/{first['id']}/versions/{first['versionId']}"
        await tenant("POST", by_version, json={})
        assert [one.path for one in container.received] == ["/v2", "/infer"]
        other = Caller(tenant.url, await new_key(tenant.url, "other"))
        assert (await other.invoke(first)).status_code == 404
        one = f"{path}/{second['versionId']}"
        assert [(await other(m, one)).status_code for m in ("GET", "DELETE")] == [404, 404]
        assert (await tenant("DELETE", one)).json()["function"]["status"] == "DELETED"
        assert (await tenant("GET", one)).status_code == 404
        listed = (await tenant("GET", "/v2/nvcf/functions")).json()["functions"]
        assert [row["id"] for row in listed] == [MODEL, first["id"]]
        container.healthy = False
        await tenant.deploy(container, name="ill")
        listed = (await tenant("GET", "/v2/nvcf/functions")).json()["functions"]
        assert [row["status"] for row in listed if row["name"] == "ill"] == ["ERROR"]


async def test_a_public_function_is_the_operators_and_everyones(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        operator = Caller(tenant.url, ADMIN_KEY)
        body = {"name": "shared", "url": f"http://{container.host}"}
        body |= {"priceMicroUsdPerInvocation": 9}
        made = (await operator("POST", "/admin/v1/functions", json=body)).json()["function"]
        assert made["public"]
        assert (await tenant.invoke(made)).status_code == 200
        assert (await admin_get(tenant.url, "usage"))["total_micro_usd"] == 9
        one = f"functions/{made['id']}/versions/{made['versionId']}"
        shown = (await tenant("GET", f"/v2/nvcf/{one}")).json()["function"]
        assert "url" not in shown
        assert (await tenant("DELETE", f"/v2/nvcf/{one}")).status_code == 403
        assert (await operator("DELETE", f"/admin/v1/{one}")).status_code == 200
        assert (await tenant.invoke(made)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"url": "http://127.0.0.1:1/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://user:pw@HOST/"}, "url"),
        ({"url": "http://HOST@evil.example/"}, "url"),
        ({"url": None}, "url"),
        ({"model": MODEL}, "url"),
        ({"url": None, "model": "none-such"}, "model"),
        ({"inferenceUrl": "@evil.example"}, "inferenceUrl"),
        ({"timeoutSeconds": 1e9}, "timeoutSeconds"),
        ({"priceMicroUsdPerInvocation": 0}, "priceMicroUsdPerInvocation"),
    ],
)
async def test_a_wrong_function_is_refused(
    tmp_path: Path, container: Container, changes: dict[str, Any], param: str
) -> None:
    async with gateway(tmp_path, container) as tenant:
        body = {"name": "f", "url": f"http://{container.host}"} | changes
        if body["url"]:
            body["url"] = body["url"].replace("HOST", container.host)
        made = await tenant("POST", "/v2/nvcf/functions", json=body)
        assert (made.status_code, made.json()["error"]["param"]) == (400, param)


async def test_a_host_that_is_no_longer_allowed_is_not_called(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
    async with gateway(tmp_path, container, tenant.key, function_hosts=()) as tenant:
        refused = await tenant.invoke(function)
        assert refused.headers["nvcf-status"] == "rejected"
    assert container.received == []


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://169.254.169.254/",
        "https://192.168.1.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "http://example.com/",
        "https://a b/",
        "https:///path",
        "https://host:99999/",
        "https://user@host/",
        "https://host/#part",
        "ftp://host/",
    ],
)
def test_an_address_that_is_not_public_is_no_target(url: str) -> None:
    with pytest.raises(InvalidInputError):
        AllowedHosts.of(["hooks.internal:8080"]).check_public("url", url)


@pytest.mark.parametrize(
    "url", ["https://example.com/x?y=1", "http://hooks.internal:8080/a", "https://8.8.8.8/"]
)
def test_a_public_or_listed_address_is_a_target(url: str) -> None:
    assert AllowedHosts.of(["Hooks.Internal:8080"]).check_public("url", url) == url


async def test_an_invocation_counts_against_its_tenants_budget(
    tmp_path: Path, container: Container
) -> None:
    async with gateway(tmp_path, container) as tenant:
        function = await tenant.deploy(container)
        limit = PRICE * 5 // 2
        body = {"tenant": "acme", "scope": "tenant", "period": "month", "limit_micro_usd": limit}
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        made = await tenant("POST", "/admin/v1/budgets", headers=headers, json=body)
        assert made.status_code == 201, made.text
        codes = [(await tenant.invoke(function)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert len(container.received) == 2
        shown = await admin_get(tenant.url, "budgets?tenant=acme")
        (budget,) = shown["data"]
        assert (budget["spent_micro_usd"], budget["reserved_micro_usd"]) == (2 * PRICE, 0)
