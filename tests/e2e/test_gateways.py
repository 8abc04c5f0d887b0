"""`airan up` with three gateways on one PostgreSQL: all answer, one goes on without the others."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import psutil
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from airan.core.ports import free_ports
from marketplace.store.connect import open_database, reading
from marketplace.store.schema import jobs, reservations, usage
from marketplace.watchdog import HUNG_S
from tests.e2e.conftest import MODEL, Site, eventually, start_site, stop_site
from tests.marketplace.market import settled
from tests.orchestrator import postgres

pytestmark = pytest.mark.e2e

N = 3
N_CLIENTS = 4
DATABASE = "AIRAN_MARKET__DATABASE_URL"
RESPONSES = "airan_marketplace_http_responses_total"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with postgres.cluster() as socket:
        (grpc_port,) = free_ports(1)
        running = start_site(
            tmp_path_factory.mktemp("gateways") / "state",
            **{DATABASE: f"postgresql://airan@/postgres?host={socket}"},
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
def test_all_answer_at_the_one_port(three: Site) -> None:
    # `airan up` said that it was ready: then all are.
    assert n_answering(three) == N
    assert len(replicas(three)) == N
    before = responses(three)
    assert {ask(three).status_code for _ in range(24)} == {200}
    more = responses(three) - before
    assert set(more) == {"0", "1", "2"}
    # One was the scrape before.
    assert min(more.values()) > 1
    # Whoever is asked knows what all have done.
    completed = {three.stats()["requests"]["completed"] for _ in range(12)}
    assert completed == {24}
    for _ in range(4):
        status = three.airan_json("status")
        assert status["market"]["requests"]["completed"] == 24
        assert status["problems"] == []


@pytest.mark.timeout(240)
def test_a_file_is_read_from_the_gateway_that_did_not_take_it_in(three: Site) -> None:
    content = os.urandom(3 << 20)
    headers = {"Authorization": f"Bearer {three.key}"}
    url = f"{three.gateway_url}/v1/files"
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
    accepted: list[str] = field(default_factory=list)
    """Ids of responses that are made in the background."""

    def __post_init__(self) -> None:
        self._clients = [threading.Thread(target=self._run) for _ in range(N_CLIENTS)]
        for client in self._clients:
            client.start()

    def finish(self) -> None:
        """Returns when the last answers are there. Idempotent."""
        self.stop.set()
        for client in self._clients:
            client.join(90)

    def _run(self) -> None:
        while not self.stop.is_set():
            self._note(self._complete)
            self._note(self._respond)

    def _note(self, ask: Callable[[], int]) -> None:
        begun_s = time.monotonic()
        try:
            outcome: object = ask()
        except httpx.TransportError as error:
            outcome = repr(error)
        self.ended.append((begun_s, time.monotonic(), outcome))

    def _complete(self) -> int:
        return ask(self.site).status_code

    def _respond(self) -> int:
        body = {"model": MODEL, "input": "Hi", "max_output_tokens": 16, "background": True}
        answer = httpx.post(self._url, headers=self._headers, json=body, timeout=60)
        if answer.status_code == 200:
            self.accepted.append(answer.json()["id"])
        return answer.status_code

    def all_completed(self) -> bool:
        """Whether what was accepted is done, each of it."""
        answers = [
            httpx.get(f"{self._url}/{one}", headers=self._headers, timeout=30).json()
            for one in self.accepted
        ]
        return {one["status"] for one in answers} <= {"completed", "incomplete"}

    @property
    def _url(self) -> str:
        return f"{self.site.gateway_url}/v1/responses"

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.site.key}"}

    def broken_after(self, since_s: float) -> list[tuple[float, float, object]]:
        """Requests that began later than that and failed."""
        return [one for one in self.ended if one[0] > since_s and one[2] != 200]


@pytest.fixture
def load(three: Site) -> Iterator[Load]:
    eventually(lambda: n_answering(three) == N, "all gateways before", 90)
    load = Load(three)
    try:
        eventually(lambda: len(load.ended) > 2 * N_CLIENTS, "the load has begun", 60)
        yield load
    finally:
        load.finish()


def kill(victim: psutil.Process) -> float:
    """When it was dead."""
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(10)
    return time.monotonic()


def check_books(site: Site) -> None:
    """All that was completed is billed, once."""
    engine = open_database(site.environ[DATABASE])
    try:
        with reading(engine) as db:
            states = dict(db.execute(sa.select(jobs.c.id, jobs.c.state)).all())
            billed = sorted(db.execute(sa.select(usage.c.job_id)).scalars())
            assert db.execute(sa.select(reservations)).first() is None
    finally:
        engine.dispose()
    assert set(states.values()) <= {"completed", "failed"}
    assert billed == sorted(one for one, state in states.items() if state == "completed")
    assert site.airan_json("books", "check")["problems"] == []


@pytest.mark.timeout(300)
def test_two_are_killed_and_the_third_hangs_under_load(three: Site, load: Load) -> None:
    first, second, third = replicas(three)
    begun_s = kill(first)
    eventually(lambda: n_answering(three) == N - 1, "two are left", 60)
    # While Ray Serve starts another one for the first.
    dead_s = kill(second)
    eventually(lambda: n_answering(three) == N, "the killed ones are back", 120)
    back_s = time.monotonic()
    print(f"three gateways again {back_s - dead_s:.1f} s after the second kill")
    third.suspend()
    stopped_s = time.monotonic()
    third.wait(60)
    hung_s = time.monotonic() - stopped_s
    eventually(lambda: n_answering(three) == N, "the hung one is replaced", 120)
    again_s = time.monotonic()
    print(
        f"killed {hung_s:.1f} s after it was stopped, three again after {again_s - stopped_s:.1f}"
    )
    eventually(lambda: load.ended[-1][0] > again_s, "requests after it", 60)
    load.finish()
    assert hung_s < HUNG_S + 3
    assert len([one for one in load.ended if begun_s < one[0] < stopped_s]) > 2 * N_CLIENTS
    broken = load.broken_after(0.0)
    # Of those that were under way, or had come to it while it hung.
    assert len(broken) <= N * N_CLIENTS
    assert load.broken_after(stopped_s + hung_s) == []
    assert all(one[0] < dead_s for one in broken if one[1] < stopped_s)
    assert not {first.pid, second.pid, third.pid} & {one.pid for one in replicas(three)}
    assert len(replicas(three)) == N
    eventually(load.all_completed, "what was accepted is done", 60)
    eventually(lambda: settled(three.environ[DATABASE]), "nothing is open", 60)
    check_books(three)
