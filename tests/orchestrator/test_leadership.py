"""Two orchestrators on one database: one leads, the other takes over, never both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from airan.core.errors import NotLeaderError, StaleGenerationError, UnavailableError
from orchestrator.api.client import ControlClient
from orchestrator.drivers.fenced import FencedDriver
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.service import ControlSettings, serve
from orchestrator.store import Store
from orchestrator.store.database import engine_of
from orchestrator.store.leadership import Leadership, leadership_of, while_leading
from tests.orchestrator.stalls import Stalls

ROOT = Path(__file__).resolve().parents[2]
TAKEOVER_S = 10.0
PATIENCE_S = 60.0
CONTENDER = """
import asyncio, sys
from orchestrator.store import Store
from orchestrator.store.leadership import leadership_of

async def main(url):
    leadership = leadership_of(url)
    Store(url).close()
    print("waits", flush=True)
    epoch = await leadership.lead()
    store = Store(url)
    store.follow(epoch)
    print("leads", epoch, flush=True)
    for line in sys.stdin:
        try:
            leadership.require()
            if line == "and hold\\n":
                with store._database.writing():
                    print("writes", flush=True)
                    sys.stdin.readline()
            store.set_value("who", epoch)
            print("wrote", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)

asyncio.run(main(sys.argv[1]))
"""


class Contender:
    """An orchestrator's process as far as leading goes."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTENDER, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "waits"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self, how: str = "") -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{how}\n")
        self.process.stdin.flush()
        return self.line()


@pytest.fixture
def contend(database_url: str) -> Iterator[Callable[[], Contender]]:
    """Starts contenders for the lead over one database."""
    Store(database_url).close()
    all_of: list[Contender] = []

    def start() -> Contender:
        all_of.append(Contender(database_url))
        return all_of[-1]

    yield start
    for one in all_of:
        one.process.kill()
        one.process.communicate()


def test_a_killed_leader_is_followed_within_ten_seconds(contend: Callable[[], Contender]) -> None:
    first = contend()
    assert first.line() == "leads 1"
    second = contend()
    assert first.write() == "wrote"
    with Stalls() as stalls:
        first.process.kill()
        begun_s = time.monotonic()
        assert second.line() == "leads 2"
        assert time.monotonic() - begun_s - stalls.total_s < TAKEOVER_S
    assert second.write() == "wrote"


def test_a_leader_that_stops_amid_a_write_is_cut_off_and_does_no_harm_when_it_wakes(
    postgres_url: str,
) -> None:
    Store(postgres_url).close()
    first, second = Contender(postgres_url), None
    try:
        assert first.line() == "leads 1"
        assert first.write("and hold") == "writes"
        second = Contender(postgres_url)
        with Stalls() as stalls:
            os.kill(first.process.pid, signal.SIGSTOP)
            begun_s = time.monotonic()
            assert second.line() == "leads 2"
            assert time.monotonic() - begun_s - stalls.total_s < TAKEOVER_S
        os.kill(first.process.pid, signal.SIGCONT)
        assert first.write() in ("NotLeaderError", "StaleGenerationError", "UnavailableError")
        assert second.write() == "wrote"
    finally:
        for one in filter(None, (first, second)):
            one.process.kill()
            one.process.communicate()


@asynccontextmanager
async def leading(url: str) -> AsyncIterator[tuple[Leadership, int]]:
    leadership = leadership_of(url)
    try:
        yield leadership, await asyncio.wait_for(leadership.lead(), PATIENCE_S)
    finally:
        await leadership.close()


async def test_only_one_leads_and_the_next_has_a_higher_epoch(database_url: str) -> None:
    Store(database_url).close()
    async with leading(database_url) as (_, first):
        other = leadership_of(database_url)
        waiting = asyncio.create_task(other.lead())
        done, _ = await asyncio.wait({waiting}, timeout=0.7)
        assert not done
        with pytest.raises(NotLeaderError):
            other.require()
    assert await asyncio.wait_for(waiting, PATIENCE_S) == first + 1
    other.require()
    await other.close()


async def test_a_leader_without_its_connection_stops(postgres_url: str) -> None:
    Store(postgres_url).close()
    async with leading(postgres_url) as (leadership, epoch):
        store = Store(postgres_url)
        store.follow(epoch)
        engine = engine_of(postgres_url)
        with engine.begin() as db:
            db.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        engine.dispose()
        why = await asyncio.wait_for(while_leading(leadership, asyncio.Event()), PATIENCE_S)
        assert "connection" in why
        with pytest.raises(NotLeaderError):
            leadership.require()
        async with leading(postgres_url):
            with pytest.raises((StaleGenerationError, UnavailableError)):
                store.set_role("MIG-1", "ran")
            with pytest.raises(StaleGenerationError):
                store.set_role("MIG-1", "ran")
        store.close()


async def test_whoever_does_not_lead_changes_no_gpu(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'control.sqlite'}"
    Store(url).close()
    leadership = leadership_of(url)
    node = SimulatedNode(tmp_path / "node.json", "GH200-96GB", delays_s=(0.0, 0.0))
    driver = FencedDriver(node, leadership.require)
    (gpu,) = await driver.gpus()
    for change in (
        driver.create(gpu.uuid, "3g.48gb", 4),
        driver.destroy("MIG-1"),
        driver.attach("MIG-1", os.getpid()),
        driver.detach("MIG-1", os.getpid()),
        driver.evict("MIG-1"),
    ):
        with pytest.raises(NotLeaderError):
            await change
    await leadership.lead()
    made = await driver.create(gpu.uuid, "3g.48gb", 4)
    assert await driver.instances() == (made,)
    await leadership.close()


async def test_a_follower_refuses_calls_and_takes_over_on_its_port(
    database_url: str, tmp_path: Path
) -> None:
    def settings(name: str) -> ControlSettings:
        # Both steer the same node: its simulated hardware is in the first one's folder.
        return ControlSettings(
            "edge-1", tmp_path, 1.0, database_url=database_url, mig_create_ms=0, mig_destroy_ms=0
        )

    stops = [asyncio.Event(), asyncio.Event()]
    ports: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in stops]
    leader = asyncio.create_task(serve(settings("a"), stops[0], ports[0].set_result))
    first = await asyncio.wait_for(ports[0], PATIENCE_S)
    follower = asyncio.create_task(serve(settings("b"), stops[1], ports[1].set_result))
    async with ControlClient(f"127.0.0.1:{first}") as client:
        assert (await client.status()).site == "edge-1"
    await asyncio.wait({follower}, timeout=1.5)
    assert not ports[1].done()
    stops[0].set()
    await leader
    second = await asyncio.wait_for(ports[1], PATIENCE_S)
    async with ControlClient(f"127.0.0.1:{second}") as client:
        assert (await client.status()).plan.generation >= 1
    stops[1].set()
    await follower
