"""How long the RAN waits for capacity: by the fast path from a slot alarm, and by a MIG move.

The whole control plane runs with its gRPC server, over the simulated node with its delays. The
lease's holder gives back as soon as it hears of it: what an engine takes to pause comes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from airan.bench.rows import Row, hardware, row
from airan.core.errors import CapacityError
from orchestrator.alarm import AlarmSettings
from orchestrator.api.client import ControlClient
from orchestrator.control import ControlPlane
from orchestrator.drivers.base import GpuInstance
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, running
from orchestrator.views import SlotReport

CREATE_MS, DESTROY_MS = 250.0, 150.0
_HOLDER = "bench"
_REPORT_S = 0.25
_POLICY = Policy(headroom=0.1, min_lease_s=0.0, notice_ms=1000)


@dataclass(frozen=True)
class ReclaimOptions:
    """How many times each is measured."""

    alarms: int = 100
    moves: int = 10


def measure(options: ReclaimOptions, say: Callable[[str], None]) -> list[Row]:
    """All rows."""
    # Alarms are what is measured here: the log need not tell each.
    logging.getLogger("airan.orchestrator").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="airan-reclaim-") as folder, _process() as pid:
        return asyncio.run(_Bench(Path(folder), pid, options, say).rows())


@contextlib.contextmanager
def _process() -> Iterator[int]:
    """A process that stands for the engine."""
    child = subprocess.Popen(["sleep", "3600"])
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


class _Bench:
    def __init__(
        self, folder: Path, pid: int, options: ReclaimOptions, say: Callable[[str], None]
    ) -> None:
        self._folder, self._pid, self._options, self._say = folder, pid, options, say
        self._applied: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
        self._driver_s = 0.0

    async def rows(self) -> list[Row]:
        """Runs the control plane and measures."""
        settings = ControlSettings(
            site="bench",
            state_dir=self._folder,
            site_started_s=time.time(),
            mig_create_ms=CREATE_MS,
            mig_destroy_ms=DESTROY_MS,
            policy=_POLICY,
            interval_ms=100,
            alarm=AlarmSettings(hold_s=0.05, max_hold_s=0.05),
        )
        async with running(settings) as (control, port):
            self._watch_driver(control)
            async with ControlClient(f"127.0.0.1:{port}") as client:
                tasks = [
                    asyncio.create_task(work)
                    for work in (self._hold(client), self._follow(client), self._report(client))
                ]
                try:
                    alarms_s = [await self._alarm(client, n) for n in range(self._options.alarms)]
                    moves = [await self._move(client, n) for n in range(self._options.moves)]
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        return _rows(alarms_s, moves)

    async def _report(self, client: ControlClient) -> None:
        """The slot runtime's quiet reports."""

        async def quiet() -> AsyncIterator[SlotReport]:
            while True:
                yield _slots(late=0)
                await asyncio.sleep(_REPORT_S)

        await client.report_slots(quiet())

    async def _hold(self, client: ControlClient) -> None:
        """The engine: takes what is offered, gives it back when told."""
        async for event in client.watch_leases(_HOLDER):
            if event.kind == "revoked" and event.lease is not None:
                await client.release_lease(event.lease.id)
            elif event.lease is None and event.free_ai_partitions:
                # The offer may be gone by now; another will come.
                with contextlib.suppress(CapacityError):
                    await client.acquire_lease(_HOLDER, self._pid)

    async def _follow(self, client: ControlClient) -> None:
        async for event in client.watch_events():
            if event.kind == "plan.applied":
                self._applied.put_nowait((time.perf_counter(), event.message))

    async def _alarm(self, client: ControlClient, number: int) -> float:
        self._say(f"slot alarm {number + 1} of {self._options.alarms}")
        await self._until(lambda: _is_leased(client))
        self._forget()
        begun_s = time.perf_counter()

        async def late() -> AsyncIterator[SlotReport]:
            yield _slots(late=1)

        await client.report_slots(late())
        return await self._until_applied("slot alarm") - begun_s

    async def _move(self, client: ControlClient, number: int) -> tuple[float, float]:
        """Seconds for a plan that moves instances, and those the driver took of it."""
        self._say(f"MIG move {number + 1} of {self._options.moves}")
        share = 0.3 if number % 2 == 0 else 0.6
        self._forget()
        self._driver_s = 0.0
        begun_s = time.perf_counter()
        policy = replace(_POLICY, kind="static", ran_share=share)
        await client.set_policy(policy)
        return await self._until_applied("static") - begun_s, self._driver_s

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30.0):
            while not await holds():
                await asyncio.sleep(0.01)

    async def _until_applied(self, word: str) -> float:
        """When a plan was applied whose reason holds the word."""
        async with asyncio.timeout(30.0):
            while True:
                done_s, message = await self._applied.get()
                if word in message:
                    return done_s

    def _forget(self) -> None:
        while not self._applied.empty():
            self._applied.get_nowait()

    def _watch_driver(self, control: ControlPlane) -> None:
        """Sums up the time that the driver's calls take."""
        create, destroy = control.driver.create, control.driver.destroy

        async def timed_create(gpu_uuid: str, profile: str, start: int) -> GpuInstance:
            begun_s = time.perf_counter()
            try:
                return await create(gpu_uuid, profile, start)
            finally:
                self._driver_s += time.perf_counter() - begun_s

        async def timed_destroy(uuid: str) -> None:
            begun_s = time.perf_counter()
            try:
                await destroy(uuid)
            finally:
                self._driver_s += time.perf_counter() - begun_s

        control.driver.create = timed_create  # type: ignore[method-assign]
        control.driver.destroy = timed_destroy  # type: ignore[method-assign]


async def _is_leased(client: ControlClient) -> bool:
    status = await client.status()
    return bool(status.leases) and status.plan.state == "applied" and status.plan.ai_share > 0


def _slots(*, late: int) -> SlotReport:
    # Two cells, so that neither report counts as the other sent again.
    cell = "cell-1" if late else "cell-0"
    return SlotReport(cell, time.time(), slots=100, slots_late=late, demand_share=0.2)


def _rows(alarms_s: list[float], moves: list[tuple[float, float]]) -> list[Row]:
    what = f"{hardware()}; simulated node, {CREATE_MS:g} + {DESTROY_MS:g} ms a MIG change (assumed)"
    p50, p99 = np.quantile(alarms_s, (0.5, 0.99)) * 1000.0
    total_ms = 1000.0 * float(np.median([total for total, _ in moves]))
    beyond_ms = 1000.0 * max(total - driver for total, driver in moves)
    runs = f"{what}; {len(alarms_s)} slot alarms over gRPC, the holder releases at once"
    changes = f"{what}; {len(moves)} plans that move instances and revoke the lease"
    return [
        row("alarm_to_ran_p50_ms", float(p50), "ms", runs),
        row("alarm_to_ran_p99_ms", float(p99), "ms", runs),
        row("mig_move_p50_ms", total_ms, "ms", changes),
        row("mig_move_beyond_driver_max_ms", beyond_ms, "ms", changes),
    ]
