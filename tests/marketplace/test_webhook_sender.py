"""Webhooks as their receivers see them: over HTTP, through failures, over a gateway's death."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.cli.test_market import Cli, cli  # noqa: F401 - a fixture
from tests.marketplace.container import Container, Received, running_container
from tests.marketplace.site import (
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

ROOT = Path(__file__).parents[2]


def check(secret: str, got: Received) -> dict[str, Any]:
    """The published rules, written out: HMAC-SHA256 of `id.timestamp.body`, base64, `v1,`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    stamp = got.headers["webhook-timestamp"]
    signed = f"{got.headers['webhook-id']}.{stamp}.".encode() + got.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{expected}" in got.headers["webhook-signature"].split(" ")
    assert abs(time.time() - int(stamp)) < 60
    return got.json()


class Tenant:
    """A tenant's client, a container to invoke and a receiver for its webhooks."""

    def __init__(self, url: str, key: str, container: Container, receiver: Container) -> None:
        self.url, self.key = url, key
        self.container, self.receiver = container, receiver

    async def call(self, method: str, path: str, expect: int = 200, **extra: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", "NVCF-POLL-SECONDS": "20"}
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
            answer = await http.request(method, path, headers=headers, **extra)
        assert answer.status_code == expect, answer.text
        return answer

    async def add_webhook(self, **body: Any) -> dict[str, Any]:
        body = {"url": f"http://{self.receiver.host}/hook"} | body
        return (await self.call("POST", "/v1/webhooks", 201, json=body)).json()

    async def invoke(self) -> str:
        body = {"name": "echo", "url": f"http://{self.container.host}"}
        made = await self.call("POST", "/v2/nvcf/functions", 201, json=body)
        path = f"/v2/nvcf/pexec/functions/{made.json()['function']['id']}"
        done = await self.call("POST", path, json={"n": 1})
        return str(done.headers["nvcf-reqid"])

    async def deliveries(self, hook: dict[str, Any]) -> list[dict[str, Any]]:
        return (await self.call("GET", f"/v1/webhooks/{hook['id']}/deliveries")).json()["data"]

    async def state(self, hook: dict[str, Any]) -> str:
        return str((await self.call("GET", f"/v1/webhooks/{hook['id']}")).json()["state"])


@asynccontextmanager
async def tenant_of(state_dir: Path, **changes: Any) -> AsyncIterator[Tenant]:
    async with AsyncExitStack() as stack:
        container = await stack.enter_async_context(running_container())
        receiver = await stack.enter_async_context(running_container())
        changes = {
            "function_hosts": (container.host,),
            "webhook_hosts": (receiver.host,),
            "webhook_schedule_s": (0.05, 0.05),
        } | changes
        settings = replace(gateway_settings(state_dir, "http://127.0.0.1:9"), **changes)
        url = await stack.enter_async_context(running_gateway(settings))
        yield Tenant(url, await new_key(url), container, receiver)


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    async with tenant_of(tmp_path) as tenant:
        yield tenant


async def test_the_end_of_an_invocation_reaches_its_receiver_signed(tenant: Tenant) -> None:
    hook = await tenant.add_webhook()
    job_id = await tenant.invoke()
    (got,) = await eventually(lambda: tenant.receiver.received)
    told = check(hook["secret"], got)
    assert (told["type"], told["data"]["id"]) == ("job.completed", job_id)
    assert got.headers["content-type"] == "application/json"

    async def delivered() -> dict[str, Any] | None:
        # The receiver has it before its answer is on record.
        (shown,) = await tenant.deliveries(hook)
        return shown if shown["state"] == "delivered" else None

    assert [one["status"] for one in (await eventually(delivered))["log"]] == [200]


async def test_a_receiver_that_fails_gets_the_same_message_again(tenant: Tenant) -> None:
    hook = await tenant.add_webhook()
    tenant.receiver.answers += [web.Response(status=500), web.Response(status=302)]
    await tenant.invoke()
    await eventually(lambda: len(tenant.receiver.received) == 3)
    assert len(set(tenant.receiver.requests_named("webhook-id"))) == 1
    assert len({got.body for got in tenant.receiver.received}) == 1
    for got in tenant.receiver.received:
        check(hook["secret"], got)

    async def delivered() -> list[int]:
        (shown,) = await tenant.deliveries(hook)
        return [one["status"] for one in shown["log"]] if shown["state"] == "delivered" else []

    assert await eventually(delivered) == [500, 302, 200]


async def test_a_receiver_that_fails_to_the_end_of_the_schedule_may_be_sent_to_anew(
    tenant: Tenant,
) -> None:
    hook = await tenant.add_webhook()
    tenant.receiver.answers += [web.Response(status=500) for _ in range(3)]
    await tenant.invoke()

    async def state(wanted: str) -> list[dict[str, Any]]:
        return [one for one in await tenant.deliveries(hook) if one["state"] == wanted]

    (failed,) = await eventually(lambda: state("failed"))
    assert failed["attempts"] == 3
    path = f"/v1/webhooks/{hook['id']}/deliveries/{failed['message_id']}/resend"
    await tenant.call("POST", path, 202)
    (done,) = await eventually(lambda: state("delivered"))
    assert [one["status"] for one in done["log"]] == [500, 500, 500, 200]


async def test_a_receiver_that_is_gone_is_disabled_until_it_is_enabled(tenant: Tenant) -> None:
    hook = await tenant.add_webhook()
    tenant.receiver.answers.append(web.Response(status=410))
    await tenant.invoke()

    async def disabled() -> bool:
        return await tenant.state(hook) == "disabled"

    await eventually(disabled)
    assert len(tenant.receiver.received) == 1
    await tenant.call("POST", f"/v1/webhooks/{hook['id']}/enable")
    await eventually(lambda: len(tenant.receiver.received) == 2)
    assert len(set(tenant.receiver.requests_named("webhook-id"))) == 1


async def test_a_receiver_that_asks_for_time_gets_it(tenant: Tenant) -> None:
    hook = await tenant.add_webhook()
    tenant.receiver.answers.append(web.Response(status=503, headers={"Retry-After": "3600"}))
    await tenant.invoke()

    async def tried() -> list[dict[str, Any]]:
        return [one for one in await tenant.deliveries(hook) if one["attempts"] == 1]

    (shown,) = await eventually(tried)
    assert shown["next_attempt_s"] - shown["log"][0]["time_s"] >= 3600


async def test_a_test_message_and_a_rotated_secret(tenant: Tenant) -> None:
    hook = await tenant.add_webhook(events=["job.failed"])
    path = f"/v1/webhooks/{hook['id']}"
    rotated = (await tenant.call("POST", f"{path}/rotate", json={"grace_s": 60})).json()
    sent = (await tenant.call("POST", f"{path}/test", 202)).json()
    (got,) = await eventually(lambda: tenant.receiver.received)
    assert got.headers["webhook-id"] == sent["message_id"]
    # Both secrets open it, each with a signature of its own.
    for secret in (hook["secret"], rotated["secret"]):
        assert check(secret, got)["type"] == "webhook.test"
    assert "secret" not in (await tenant.call("GET", path)).json()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "http://hooks.example/"}, "url"),
        ({"url": 7}, "url"),
        ({"url": "https://hooks.example", "events": ["job.started"]}, "events"),
        ({"url": "https://hooks.example", "events": []}, "events"),
        ({"url": "https://hooks.example", "secret": "mine"}, "secret"),
    ],
)
async def test_a_wrong_webhook_is_refused_and_the_parameter_named(
    tenant: Tenant, body: dict[str, Any], param: str
) -> None:
    answer = await tenant.call("POST", "/v1/webhooks", 400, json=body)
    assert answer.json()["error"]["param"] == param


async def test_a_host_taken_off_the_list_is_not_called_any_more(tmp_path: Path) -> None:
    async with tenant_of(tmp_path) as before:
        hook = await before.add_webhook()
        # Held back, so that the next gateway finds it unsent.
        before.receiver.go.clear()
        await before.call("POST", f"/v1/webhooks/{hook['id']}/test", 202)
        await eventually(lambda: before.receiver.received)
    async with tenant_of(tmp_path, webhook_hosts=()) as after:

        async def refused() -> list[dict[str, Any]]:
            after.key = before.key
            (shown,) = await after.deliveries(hook)
            return [one for one in shown["log"] if one["error"]]

        assert "https URL" in (await eventually(refused))[0]["error"]


async def test_a_killed_gateway_forgets_no_message(tmp_path: Path) -> None:
    async with running_container() as container, running_container() as receiver:
        receiver.go.clear()
        async with gateway_process(tmp_path, container.host, receiver.host) as (process, url):
            tenant = Tenant(url, await new_key(url), container, receiver)
            hook = await tenant.add_webhook()
            job_id = await tenant.invoke()
            await eventually(lambda: receiver.received)
            process.kill()
        receiver.go.set()
        async with gateway_process(tmp_path, container.host, receiver.host) as (_, url):
            tenant.url = url

            async def delivered() -> bool:
                return (await tenant.deliveries(hook))[0]["state"] == "delivered"

            await eventually(delivered)
        told = [check(hook["secret"], got) for got in receiver.received]
        assert [one["data"]["id"] for one in told] == [job_id] * 2
        assert len(set(receiver.requests_named("webhook-id"))) == 1


async def test_webhooks_are_managed_from_the_command_line(cli: Cli) -> None:  # noqa: F811
    await cli("tenant", "create", "acme")
    made = await cli.json(
        "webhook", "create", "acme", "https://hooks.example", "--event=job.failed"
    )
    assert made["secret"].startswith("whsec_")
    listed = await cli("webhook", "list", "acme")
    assert made["id"] in listed
    assert made["secret"] not in listed
    rotated = await cli.json("webhook", "rotate", "acme", made["id"], "--grace-s", "0")
    assert rotated["secret"] != made["secret"]
    sent = await cli.json("webhook", "test", "acme", made["id"])
    (shown,) = await cli.json("webhook", "deliveries", "acme", made["id"])
    assert shown["message_id"] == sent["message_id"]
    assert shown["type"] in await cli("webhook", "deliveries", "acme", made["id"])
    await cli("webhook", "resend", "acme", made["id"], sent["message_id"])
    await cli("webhook", "enable", "acme", made["id"])
    await cli("webhook", "delete", "acme", made["id"])
    assert await cli.json("webhook", "list", "acme") == []


@asynccontextmanager
async def gateway_process(state_dir: Path, *hosts: str) -> AsyncIterator[tuple[Any, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("gateway_process.py")),
        str(state_dir),
        "http://127.0.0.1:9",
        *hosts,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
