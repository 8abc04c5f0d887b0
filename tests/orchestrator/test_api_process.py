"""The control plane as a process: killed with signal 9, and called by synchronous code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airan.core.errors import (
    CapacityError,
)
from orchestrator.api import client
from orchestrator.api.client import ControlClient
from orchestrator.views import LeaseEvent
from tests.orchestrator.control_plane import quiet_ran, until

Start = Callable[[], "subprocess.Popen[bytes]"]


PROCESS = """
import asyncio, sys, time
from pathlib import Path
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, serve
settings = ControlSettings(
    site="edge-1", state_dir=Path(sys.argv[1]), port=int(sys.argv[2]), site_started_s=1.0,
    mig_create_ms=10.0, mig_destroy_ms=5.0, interval_ms=50, policy=Policy(min_lease_s=0.5),
)
asyncio.run(serve(settings, asyncio.Event(), lambda port: print(port, flush=True)))
"""


def control_process(path: Path, port: int) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(path), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    return process, int(line)


async def test_a_killed_control_process_comes_back_to_its_leases(
    tmp_path: Path, start_process: Start
) -> None:
    process, port = await asyncio.to_thread(control_process, tmp_path, 0)
    child = start_process()
    seen: list[LeaseEvent] = []
    try:
        async with ControlClient(f"127.0.0.1:{port}") as control_client:

            async def engine() -> None:
                async for event in control_client.watch_leases("engine"):
                    seen.append(event)

            tasks = [
                asyncio.create_task(engine()),
                asyncio.create_task(control_client.report_slots(quiet_ran())),
            ]

            async def acquired() -> Any:
                try:
                    return await control_client.acquire_lease("engine", child.pid)
                except CapacityError:
                    return None

            lease = await until(acquired)
            before = (await control_client.status()).slots.slots
            process.kill()
            process.wait()
            process, _ = await asyncio.to_thread(control_process, tmp_path, port)
            await control_client.wait_ready(20.0)
            assert await control_client.acquire_lease("engine", child.pid) == lease

            async def snapshot_again() -> bool:
                return [event.kind for event in seen if event.lease].count("snapshot") >= 1

            async def reports_again() -> bool:
                return (await control_client.status()).slots.slots > before

            await until(snapshot_again)
            await until(reports_again)
            held = [event for event in seen if event.kind == "snapshot" and event.lease]
            assert held[-1].lease == lease
            assert child.poll() is None
            for task in tasks:
                task.cancel()
    finally:
        process.kill()
        process.wait()


def test_synchronous_code_calls_the_control_plane_too(tmp_path: Path) -> None:
    process, port = control_process(tmp_path, 0)
    try:
        status = client.call(f"127.0.0.1:{port}", lambda control: control.status())
        assert status.site == "edge-1"
    finally:
        process.kill()
        process.wait()
