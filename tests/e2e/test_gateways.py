"""`airan up` with two gateways on one PostgreSQL: both answer, one goes on without the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import MODEL, Site, eventually, start_site, stop_site
from tests.marketplace.site import free_ports
from tests.orchestrator import postgres

pytestmark = pytest.mark.e2e

N = 2
RESPONSES = "airan_marketplace_http_responses_total"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with postgres.cluster() as socket:
        (grpc_port,) = free_ports(1)
        running = start_site(
            tmp_path_factory.mktemp("gateways") / "state",
            AIRAN_MARKET__DATABASE_URL=f"postgresql://airan@/postgres?host={socket}",
            AIRAN_MARKET__GATEWAYS=str(N),
            AIRAN_MARKET__GRPC_PORT=str(grpc_port),
            AIRAN_CLOCK__START="03:00",
        )
        eventually(lambda: "ready after" in said(running), "airan up says that it is ready", 60)
        yield running
        stop_site(running)


def said(site: Site) -> str:
    return (site.state_dir.parent / f"{site.state_dir.name}.out").read_text()


def replicas(site: Site) -> list[psutil.Process]:
    return [one for one in site.processes() if "ServeReplica" in " ".join(one.cmdline())]


def responses(site: Site) -> Counter[str]:
    """HTTP responses by gateway, as one scrape gives them."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(
        httpx.get(f"{site.gateway_url}/metrics", timeout=10).text
    ):
        for sample in family.samples:
            if sample.name == RESPONSES:
                found[sample.labels["gateway"]] += int(sample.value)
    return found


def n_answering(site: Site) -> int:
    try:
        answer = httpx.get(f"{site.gateway_url}/readyz", timeout=5)
        return int(answer.json()["gateways"])
    except (httpx.HTTPError, ValueError):
        return 0


def ask(site: Site) -> httpx.Response:
    """A completion over a connection of its own, so that either gateway may get it."""
    return httpx.post(
        f"{site.gateway_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {site.key}"},
        json={"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6},
        timeout=60,
    )


@pytest.mark.timeout(240)
def test_both_answer_at_the_one_port(two: Site) -> None:
    # `airan up` said that it was ready: then all are.
    assert n_answering(two) == N
    assert len(replicas(two)) == N
    before = responses(two)
    assert {ask(two).status_code for _ in range(24)} == {200}
    more = responses(two) - before
    assert set(more) == {"0", "1"}
    assert min(more.values()) > 2
    # Whoever is asked knows what all have done.
    completed = {two.stats()["requests"]["completed"] for _ in range(12)}
    assert completed == {24}
    for _ in range(4):
        status = two.airan_json("status")
        assert status["market"]["requests"]["completed"] == 24
        assert status["problems"] == []


@pytest.mark.timeout(240)
def test_a_file_is_read_from_the_gateway_that_did_not_take_it_in(two: Site) -> None:
    content = os.urandom(3 << 20)
    headers = {"Authorization": f"Bearer {two.key}"}
    url = f"{two.gateway_url}/v1/files"
    form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", content)}}
    file_id = httpx.post(url, headers=headers, timeout=30, **form).json()["id"]
    for _ in range(12):
        read = httpx.get(f"{url}/{file_id}/content", headers=headers, timeout=30)
        assert read.content == content
    assert httpx.delete(f"{url}/{file_id}", headers=headers, timeout=30).json()["deleted"]
    for _ in range(12):
        read = httpx.get(f"{url}/{file_id}/content", headers=headers, timeout=30)
        assert read.status_code == 404


@dataclass
class Load:
    """Clients that ask one after the other, until `stop`."""

    site: Site
    stop: threading.Event = field(default_factory=threading.Event)
    ended: list[tuple[float, float, object]] = field(default_factory=list)
    """Of each request: when it began, when it ended, its status or its error."""

    def run(self) -> None:
        while not self.stop.is_set():
            begun_s = time.monotonic()
            try:
                outcome: object = ask(self.site).status_code
            except httpx.TransportError as error:
                outcome = repr(error)
            self.ended.append((begun_s, time.monotonic(), outcome))


@pytest.mark.timeout(300)
def test_one_is_killed_under_load_and_the_other_goes_on_until_it_is_back(two: Site) -> None:
    eventually(lambda: n_answering(two) == N, "both gateways before", 90)
    load = Load(two)
    clients = [threading.Thread(target=load.run) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: len(load.ended) > 8, "the load has begun", 60)
        victim = replicas(two)[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(60)
        dead_s = time.monotonic()
        eventually(lambda: n_answering(two) == 1, "one is left", 60)
        eventually(lambda: n_answering(two) == N, "the killed one is back", 120)
        back_s = time.monotonic()
        print(f"two gateways again {back_s - dead_s:.1f} s after the kill")
        eventually(lambda: load.ended[-1][0] > back_s, "requests after it", 60)
    finally:
        load.stop.set()
        for client in clients:
            client.join(90)
    later = [one for one in load.ended if one[0] > dead_s]
    assert {outcome for _, _, outcome in later} == {200}
    meanwhile = [one for one in later if one[1] < back_s]
    assert len(meanwhile) > 8
    broken = [one for one in load.ended if one[2] != 200]
    assert len(broken) <= len(clients)
    assert victim.pid not in {one.pid for one in replicas(two)}
    assert len(replicas(two)) == N
    assert two.airan_json("books", "check")["problems"] == []
