"""Whole control processes on one PostgreSQL: however the leader fails, another takes over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from airan.core.errors import UnavailableError
from airan.core.ports import free_ports
from orchestrator.api.client import ControlClient
from orchestrator.store import Store
from orchestrator.store.database import engine_of
from tests.orchestrator.stalls import Stalls

ROOT = Path(__file__).resolve().parents[2]
TAKEOVER_S = 10.0
PATIENCE_S = 60.0
CONTROL = """
import asyncio, sys
from pathlib import Path
from orchestrator.service import ControlSettings, serve

async def main(url, folder, port):
    # All steer the same node: its simulated hardware is in the folder.
    settings = ControlSettings(
        "edge-1", Path(folder), 1.0, port=int(port), database_url=url,
        mig_create_ms=0, mig_destroy_ms=0,
    )
    try:
        await serve(settings, asyncio.Event(), lambda port: print("serves", flush=True))
    except Exception as error:
        print(type(error).__name__, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Control:
    """A control process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.address = process, f"127.0.0.1:{port}"

    async def line(self) -> str:
        assert self.process.stdout is not None
        read = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)
        return read.decode().strip()

    async def health(self) -> int:
        async with grpc.aio.insecure_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest(service="airan.control.v1.SiteService")
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                request, timeout=PATIENCE_S, wait_for_ready=True
            )
            return int(reply.status)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


Start = Callable[[str], Awaitable[Control]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts control processes; none is left behind."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(url: str) -> Control:
        (port,) = free_ports(1)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONTROL, url, str(tmp_path), str(port)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        processes.append(process)
        return Control(process, port)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Line:
    """A unix socket in front of the database's that can go dead without anyone being told."""

    def __init__(self, database: Path, name: str) -> None:
        self._database, self._name = database, name
        self._whole = asyncio.Event()
        self._whole.set()
        self._joined: set[asyncio.Task[None]] = set()

    async def open(self, folder: Path) -> asyncio.Server:
        return await asyncio.start_unix_server(self._join, folder / self._name)

    def cut(self) -> None:
        self._whole.clear()

    async def close(self) -> None:
        for task in self._joined:
            task.cancel()
        await asyncio.gather(*self._joined, return_exceptions=True)

    async def _join(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joined.add(task)
        there, on = await asyncio.open_unix_connection(self._database / self._name)
        try:
            await asyncio.gather(self._pump(here, on), self._pump(there, back))
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            on.transport.abort()
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b"-"
        while data:
            data = await reader.read(65536)
            await self._whole.wait()
            writer.write(data)
        writer.close()


@pytest.fixture
async def line(postgres_socket: str, postgres_url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to the database, and the database's URL by that line."""
    line = Line(Path(postgres_socket), ".s.PGSQL.5432")
    with tempfile.TemporaryDirectory(prefix="airan-line-") as folder:
        server = await line.open(Path(folder))
        yield line, postgres_url.replace(postgres_socket, folder)
        server.close()
        await line.close()


async def led_and_followed(start: Start, first_url: str, url: str) -> tuple[Control, Control]:
    leader = await start(first_url)
    assert await leader.line() == "serves"
    follower = await start(url)
    assert await follower.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(UnavailableError, match="does not lead"):
        await status_generation(follower)
    assert await leader.health() == health_pb2.HealthCheckResponse.SERVING
    return leader, follower


async def status_generation(control: Control) -> int:
    async with ControlClient(control.address) as client:
        return (await client.status()).plan.generation


async def takes_over(follower: Control, begun_s: float) -> None:
    with Stalls() as stalls:
        assert await follower.line() == "serves"
    took_s = time.monotonic() - begun_s
    print(f"taken over after {took_s:.2f} s, {stalls.total_s:.2f} s of which nothing ran")
    assert took_s - stalls.total_s < TAKEOVER_S
    assert await follower.health() == health_pb2.HealthCheckResponse.SERVING
    assert await status_generation(follower) >= 1


def epoch_of(url: str) -> int:
    engine = engine_of(url)
    with engine.begin() as db:
        epoch = int(db.execute(sa.text("SELECT epoch FROM leadership")).scalar_one())
    engine.dispose()
    return epoch


async def test_a_killed_control_process_is_followed(start: Start, postgres_url: str) -> None:
    leader, follower = await led_and_followed(start, postgres_url, postgres_url)
    leader.send(signal.SIGKILL)
    await takes_over(follower, time.monotonic())
    assert epoch_of(postgres_url) == 2


async def test_a_stopped_control_process_is_followed_and_gives_up_when_it_wakes(
    start: Start, postgres_url: str
) -> None:
    leader, follower = await led_and_followed(start, postgres_url, postgres_url)
    leader.send(signal.SIGSTOP)
    await takes_over(follower, time.monotonic())
    store = Store(postgres_url)
    before = (store.newest_plan(), len(store.events(0, 1000)))
    leader.send(signal.SIGCONT)
    assert await leader.line() == "NotLeaderError"
    assert (store.newest_plan(), len(store.events(0, 1000))) == before
    store.close()
    assert epoch_of(postgres_url) == 2


async def test_a_control_process_cut_off_from_the_database_ends_and_is_followed(
    start: Start,
    line: tuple[Line, str],
    postgres_url: str,
) -> None:
    leader, follower = await led_and_followed(start, line[1], postgres_url)
    line[0].cut()
    begun_s = time.monotonic()
    given_up = asyncio.create_task(leader.line())
    await takes_over(follower, begun_s)
    assert await given_up == "NotLeaderError"
    print(f"given up after {time.monotonic() - begun_s:.2f} s at the latest")
