"""`airan up` on PostgreSQL: sites share a database, and what was accepted outlives its gateway."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import MODEL, Site, eventually, start_site, stop_site
from tests.orchestrator import postgres

pytestmark = pytest.mark.e2e

URL = "AIRAN_MARKET__DATABASE_URL"


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with postgres.cluster() as socket:
        url = f"postgresql://airan@/postgres?host={socket}"
        folder = tmp_path_factory.mktemp("postgres") / "state"
        running = start_site(folder, **{URL: url, "AIRAN_CLOCK__START": "03:00"})
        yield running
        stop_site(running)


@pytest.mark.timeout(300)
def test_a_second_site_works_on_the_same_database_until_it_leaves(on_postgres: Site) -> None:
    before = on_postgres.stats()["requests"]["completed"]
    url = on_postgres.environ[URL]
    folder = on_postgres.state_dir.parent / "second"
    second = start_site(folder, **{URL: url, "AIRAN_CLOCK__START": "03:00"})
    try:
        for site in (on_postgres, second):
            asked = site.client(on_postgres.key).chat.completions
            answer = asked.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
            )
            assert answer.usage is not None
        for site in (on_postgres, second):
            assert site.stats()["requests"]["completed"] == before + 2
    finally:
        stop_site(second)
    assert on_postgres.ready()
    assert on_postgres.airan_json("books", "check")["problems"] == []


@pytest.mark.timeout(240)
def test_what_was_accepted_is_done_once_by_the_next_replica(on_postgres: Site) -> None:
    before = on_postgres.stats()["requests"]["completed"]
    headers = {"Authorization": f"Bearer {on_postgres.key}", "NVCF-POLL-SECONDS": "0"}
    messages = [{"role": "user", "content": "Tell me of the sea."}]
    ids: list[str] = []
    with httpx.Client(base_url=on_postgres.gateway_url, headers=headers, timeout=30) as http:
        for _ in range(3):
            body = {"messages": messages, "max_tokens": 60, "temperature": 0}
            answer = http.post(f"/v2/nvcf/pexec/functions/{MODEL}", json=body)
            assert answer.status_code == 202
            ids.append(answer.headers["nvcf-reqid"])
        os.kill(on_postgres.pid_of("ServeReplica"), signal.SIGKILL)

        def texts() -> list[str]:
            try:
                found = [http.get(f"/v2/nvcf/pexec/status/{one}") for one in ids]
            except httpx.TransportError:
                return []
            done = [json.loads(one.text) for one in found if one.status_code == 200]
            return [one["choices"][0]["message"]["content"] for one in done]

        eventually(lambda: len(texts()) == len(ids), "the next replica has done them all", 150)
        assert len(set(texts())) == 1
    assert on_postgres.stats()["requests"]["completed"] == before + len(ids)
    assert on_postgres.airan_json("books", "check")["problems"] == []
