"""Tenant isolation, tried out: another tenant's object is as unknown as one that never was.

The cases come from the gateway's own routes: a new one with an id that is not in `Owner.ids`
fails here until it has a case.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from marketplace.gateway import build_app
from tests.marketplace.simulated_engine import MODEL, simulated_market
from tests.marketplace.site import ADMIN_KEY, eventually, gateway_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCOPES = ["inference", "files", "billing:read", "keys:write"]
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
# Paths whose parts are nobody's: models are everybody's, a month is one's own.
NOT_OWNED = {"GET /v1/models/{name}", "GET /v1/invoices/{month}"}
# Opened by a signature in place of a key, which test_nvcf forges.
SIGNED = {"GET /v2/nvcf/results/{job_id}"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v2/nvcf/functions/{function_id}/versions": {"name": "f", "model": MODEL},
    "POST /v2/nvcf/pexec/functions/{function_id}": CHAT,
    "POST /v2/nvcf/pexec/functions/{function_id}/versions/{version_id}": CHAT,
}
OPERATIONS = sorted(
    f"{method.upper()} {path}"
    for path, methods in build_app(gateway_settings(Path("unused"))).openapi()["paths"].items()
    for method in methods
    if path.startswith(("/v1/", "/v2/"))
)
OWNED = [name for name in OPERATIONS if "{" in name and name not in NOT_OWNED | SIGNED]
LISTINGS = [name for name in OPERATIONS if name.startswith("GET ") and "{" not in name]


class Owner:
    """A tenant with one object of each kind."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self._http, self.name = http, name
        self.ids: dict[str, str] = {}
        self.headers: dict[str, str] = {}

    async def send(self, method: str, path: str, **asked: Any) -> httpx.Response:
        headers = self.headers | asked.pop("headers", {})
        return await self._http.request(method, path, headers=headers, **asked)

    async def make(self, path: str, **asked: Any) -> dict[str, Any]:
        answer = await self.send("POST", path, **asked)
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def fill(self) -> None:
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        tenant = await self.make("/admin/v1/tenants", headers=admin, json={"name": self.name})
        asked: dict[str, Any] = {"tenant": self.name, "scopes": SCOPES}
        mine = await self.make("/admin/v1/keys", headers=admin, json=asked)
        self.headers = {"Authorization": f"Bearer {mine['key']}"}
        asked = {"tenant": self.name, "name": "lab"}
        project = await self.make("/admin/v1/projects", headers=admin, json=asked)
        ids = self.ids = {"tenant": tenant["id"], "project": project["id"], "own_key": mine["id"]}
        ids["key_id"] = (await self.make("/v1/keys", json={"name": "second"}))["id"]
        asked = {"url": f"https://{self.name}.example/", "events": ["job.completed"]}
        ids["endpoint_id"] = (await self.make("/v1/webhooks", json=asked))["id"]
        sent = await self.make(f"/v1/webhooks/{ids['endpoint_id']}/test")
        ids["message_id"] = sent["message_id"]
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}
        ids["file_id"] = (await self.make("/v1/files", **form))["id"]
        asked = {"input_file_id": ids["file_id"], "endpoint": "/v1/completions"}
        asked["completion_window"] = "24h"
        ids["batch_id"] = (await self.make("/v1/batches", json=asked))["id"]
        asked = {"base": MODEL, "name": "mine", "sha256": "0" * 64, "size_bytes": 1}
        ids["adapter_id"] = (await self.make("/v1/adapters", json=asked))["id"]
        asked = {"model": MODEL, "input": "Hi", "max_output_tokens": 16}
        ids["response_id"] = (await self.make("/v1/responses", json=asked))["id"]
        function = (await self.make("/v2/nvcf/functions", json={"name": "f", "model": MODEL}))[
            "function"
        ]
        ids |= {"function_id": function["id"], "version_id": function["versionId"]}
        answer = await self.send("POST", f"/v2/nvcf/pexec/functions/{function['id']}", json=CHAT)
        ids["job_id"] = answer.headers["nvcf-reqid"]

    async def seen(self) -> dict[str, Any]:
        """All that it can see of its own, which nobody else may change."""
        found = {}
        for name in LISTINGS:
            if name not in ("GET /v1/prices", "GET /v1/models"):
                answer = await self.send("GET", name.split()[1])
                assert answer.status_code == 200, name
                found[name] = without_times(answer.json())
        for name in OWNED:
            method, path = name.split()
            if method == "GET":
                answer = await self.send(method, path.format(**self.ids))
                assert answer.status_code == 200, (name, answer.text)
                if not path.endswith(("/content", "/deliveries")):
                    found[name] = without_times(answer.json())
        return found


def without_times(value: Any) -> Any:
    """Without what changes by itself."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.endswith("time") and k != "last_used_s"}
        return {key: without_times(one) for key, one in kept.items()}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tenants(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Owner, Owner]]:
    """The tenant that owns things, and the one that tries to get at them."""
    folder = tmp_path_factory.mktemp("isolation")
    async with (
        simulated_market(folder, 0.0) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        owner, other = Owner(http, "acme"), Owner(http, "neighbour")
        for one in (owner, other):
            await one.fill()

        async def batches_ended() -> bool:
            rows = [
                (await one.send("GET", f"/v1/batches/{one.ids['batch_id']}")).json()
                for one in (owner, other)
            ]
            return all(row["status"] in ("completed", "failed") for row in rows)

        await eventually(batches_ended)
        yield owner, other


def unknown(value: str) -> str:
    """An id of the same form that nobody has."""
    return value[:-4] + ("0000" if not value.endswith("0000") else "1111")


@pytest.mark.parametrize("name", OWNED)
async def test_anothers_object_is_answered_as_an_unknown_one(
    tenants: tuple[Owner, Owner], name: str
) -> None:
    owner, other = tenants
    method, path = name.split()
    parts = {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert parts <= owner.ids.keys(), f"{name} has no isolation case: add its ids to Owner.fill"
    asked: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": BODIES.get(name, {})}
    before = await owner.seen()
    theirs = await other.send(method, path.format(**owner.ids), **asked)
    nobodys_ids = {key: unknown(value) for key, value in owner.ids.items()}
    nobodys = await other.send(method, path.format(**nobodys_ids), **asked)
    assert (theirs.status_code, nobodys.status_code) == (404, 404), theirs.text
    shown = nobodys.text
    for key in parts:
        shown = shown.replace(nobodys_ids[key], owner.ids[key])
    assert theirs.text == shown
    assert {*theirs.headers} == {*nobodys.headers}
    assert await owner.seen() == before
    # The case is none if the owner gets no further either.
    mine = await owner.send(method, path.format(**nobodys_ids), **asked)
    assert mine.status_code == 404


@pytest.mark.parametrize("part", ["endpoint_id", "function_id"])
async def test_ones_own_object_does_not_open_anothers_below_it(
    tenants: tuple[Owner, Owner], part: str
) -> None:
    owner, other = tenants
    mixed = owner.ids | {part: other.ids[part]}
    for name in OWNED:
        method, path = name.split()
        if path.count("{") == 2 and f"{{{part}}}" in path:
            asked = {} if method in ("GET", "DELETE") else {"json": BODIES.get(name, {})}
            assert (await other.send(method, path.format(**mixed), **asked)).status_code == 404


@pytest.mark.parametrize("name", LISTINGS)
async def test_no_list_or_report_shows_anything_of_anothers(
    tenants: tuple[Owner, Owner], name: str
) -> None:
    owner, other = tenants
    path = name.split()[1]
    answer = await other.send("GET", path)
    assert answer.status_code == 200
    assert not [value for value in owner.ids.values() if value in answer.text]
    assert owner.name not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "key", "field"),
    [
        ("/v1/responses", {"model": MODEL, "input": "Hi"}, "response_id", "previous_response_id"),
        (
            "/v1/batches",
            {"endpoint": "/v1/completions", "completion_window": "24h"},
            "file_id",
            "input_file_id",
        ),
        ("/v1/keys", {"name": "k"}, "project", "project"),
    ],
)
async def test_anothers_id_within_a_body_is_as_unknown(
    tenants: tuple[Owner, Owner], path: str, body: dict[str, Any], key: str, field: str
) -> None:
    owner, other = tenants
    theirs = await other.send("POST", path, json=body | {field: owner.ids[key]})
    nobody = unknown(owner.ids[key])
    nobodys = await other.send("POST", path, json=body | {field: nobody})
    assert theirs.status_code in (400, 404)
    assert theirs.status_code == nobodys.status_code
    assert theirs.text == nobodys.text.replace(nobody, owner.ids[key])


@pytest.mark.parametrize(("path", "key"), [("/v1/files", "file_id"), ("/v1/batches", "batch_id")])
async def test_anothers_id_is_no_place_in_a_list(
    tenants: tuple[Owner, Owner], path: str, key: str
) -> None:
    owner, other = tenants
    for after in (owner.ids[key], unknown(owner.ids[key])):
        answer = await other.send("GET", path, params={"after": after})
        assert (answer.status_code, answer.json()["data"]) == (200, [])


async def test_the_same_idempotency_key_is_another_one_for_another_tenant(
    tenants: tuple[Owner, Owner],
) -> None:
    answers = [
        await one.send(
            "POST",
            "/v1/responses",
            json={"model": MODEL, "input": f"I am {one.name}.", "max_output_tokens": 16},
            headers={"Idempotency-Key": "the-same"},
        )
        for one in tenants
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert "idempotent-replayed" not in answers[1].headers


async def test_an_invoice_is_of_the_keys_tenant(tenants: tuple[Owner, Owner]) -> None:
    owner, other = tenants
    path = f"/v1/invoices/{time.strftime('%Y-%m', time.gmtime())}"
    assert owner.name in (await owner.send("GET", path)).text
    assert owner.name not in (await other.send("GET", path)).text
