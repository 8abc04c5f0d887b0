"""The gateway's OpenAPI document, tried out by schemathesis: no 5xx, and answers as published.

The model is simulated. Requests are drawn from the document, good ones and bad ones, with ids
that are nobody's and, where a path has ids, with those of objects that exist.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from marketplace.gateway import ModelOffer, Price, build_app, openapi_schemas
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT, simulated_agent
from tests.marketplace.site import (
    ADMIN_KEY,
    eventually,
    gateway_settings,
    new_key,
    running_app,
)
from tests.orchestrator import postgres

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
# Hypothesis sees that the gateway, in its thread, draws random numbers while requests are made up.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
SCOPES = ["inference", "files", "billing:read", "keys:write"]


class Served:
    """A gateway with one object of each kind."""

    def __init__(self, app: Any, url: str) -> None:
        self.app, self.url = app, url
        self.ids: dict[str, str] = {}
        self.key = ""

    def headers(self, path: str) -> dict[str, str]:
        key = ADMIN_KEY if path.startswith("/admin/") else self.key
        return {"Authorization": f"Bearer {key}"}

    async def fill(self) -> None:
        """Makes the objects."""
        await new_key(self.url)
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:

            async def make(path: str, **asked: Any) -> dict[str, Any]:
                answer = await http.post(path, headers=self.headers(path), **asked)
                assert answer.is_success, answer.text
                made: dict[str, Any] = answer.json()
                return made

            admin = "/admin/v1"
            made = await make(f"{admin}/keys", json={"tenant": "acme", "scopes": SCOPES})
            self.key, ids = made["key"], self.ids
            ids |= {"tenant": "acme", "month": "2026-01", "price_id": "1", "name": MODEL}
            asked: dict[str, Any] = {"tenant": "acme", "name": "lab"}
            ids["project_id"] = (await make(f"{admin}/projects", json=asked))["id"]
            ids["key_id"] = (await make(f"{admin}/keys", json=asked))["id"]
            asked = {"tenant": "acme", "email": "ada@example.org"}
            ids["user_id"] = (await make(f"{admin}/users", json=asked))["id"]
            asked = {"tenant": "acme", "limit_micro_usd": 10**12}
            ids["budget_id"] = (await make(f"{admin}/budgets", json=asked))["id"]
            asked = {"url": "https://hooks.example/", "events": ["job.completed"]}
            ids["endpoint_id"] = (await make("/v1/webhooks", json=asked))["id"]
            form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}
            ids["file_id"] = (await make("/v1/files", **form))["id"]
            asked = {"input_file_id": ids["file_id"], "endpoint": "/v1/completions"}
            asked["completion_window"] = "24h"
            ids["batch_id"] = (await make("/v1/batches", json=asked))["id"]
            asked = {"base": MODEL, "name": "mine", "sha256": "0" * 64, "size_bytes": 1}
            ids["adapter_id"] = (await make("/v1/adapters", json=asked))["id"]
            asked = {"model": MODEL, "input": "Hi", "max_output_tokens": 16}
            ids["response_id"] = (await make("/v1/responses", json=asked))["id"]
            function = (await make("/v2/nvcf/functions", json={"name": "f", "model": MODEL}))[
                "function"
            ]
            ids |= {"function_id": function["id"], "version_id": function["versionId"]}
            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            path = f"/v2/nvcf/pexec/functions/{function['id']}"
            answer = await http.post(path, headers=self.headers(path), json=chat)
            ids["job_id"] = answer.headers["nvcf-reqid"]


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A gateway that runs in a thread, as schemathesis waits for its answers.

    On PostgreSQL where that is installed: it refuses more than SQLite does.
    """
    url = ""
    if postgres.binaries() is not None:
        url = f"postgresql://airan@/postgres?host={request.getfixturevalue('postgres_socket')}"
    found: list[Served] = []
    begun, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with simulated_agent() as agent:
            folder = tmp_path_factory.mktemp("openapi")
            settings = gateway_settings(folder, agent, database_url=url)
            offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
            app = build_app(replace(settings, models=(offer,), max_functions=10**6))
            async with running_app(app) as here:
                ready = Served(app, here)
                async with httpx.AsyncClient(base_url=here, timeout=30) as http:
                    await eventually(lambda: is_ready(http))
                await ready.fill()
                found.append(ready)
                begun.set()
                await stop.wait()

    def serve() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        finally:
            begun.set()

    thread = threading.Thread(target=serve)
    thread.start()
    begun.wait()
    assert found, "the gateway did not start"
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()


async def is_ready(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/readyz")).json()["status"] == "ready")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


# The document is the same for every gateway; this one is never started.
schema = schemathesis.openapi.from_dict(build_app(gateway_settings(Path("unused"))).openapi())


@schema.parametrize()
@settings(
    max_examples=8,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_request_gets_an_answer_as_published(
    case: Any, served: Served, session: requests.Session
) -> None:
    headers = served.headers(case.path)
    asked = {"base_url": served.url, "headers": headers, "session": session, "timeout": 30}
    case.call_and_validate(checks=CHECKS, **asked)
    if set(case.path_parameters) & served.ids.keys():
        case.path_parameters.update(
            {name: served.ids.get(name, value) for name, value in case.path_parameters.items()}
        )
        case.call_and_validate(checks=CHECKS, **asked)


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/admin/v1/events?after=9223372036854775808", "after"),
        ("DELETE", "/admin/v1/prices/2147483648", "price_id"),
    ],
)
def test_a_number_that_the_database_has_no_room_for_is_refused_by_name(
    served: Served, session: requests.Session, method: str, path: str, param: str
) -> None:
    answer = session.request(method, served.url + path, headers=served.headers(path))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_every_operation_says_what_it_takes_and_whose_key_it_wants(served: Served) -> None:
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in served.app.openapi()["paths"].items()
        for method, operation in methods.items()
    }
    bodiless = ("/enable", "/test", "/resend", "/cancel")
    for name, operation in operations.items():
        method, path = name.split()
        if method in ("POST", "PUT") and not path.endswith(bodiless):
            assert "requestBody" in operation, name
        named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, name
        assert "default" in operation["responses"], name
    unknown = {*openapi_schemas.BODIES, *openapi_schemas.FORMS} - operations.keys()
    assert not unknown
