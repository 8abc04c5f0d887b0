"""The simulated node: what it does beyond the contract of every driver."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airan.core.clock import ManualClock
from airan.core.errors import InUseError, UnavailableError
from orchestrator.drivers import processes
from orchestrator.drivers.base import Driver
from orchestrator.drivers.simulated import SimulatedNode

Start = Callable[[], "subprocess.Popen[bytes]"]


def node(path: Path, **options: object) -> SimulatedNode:
    options = {"delays_s": (0.0, 0.0)} | options
    return SimulatedNode(path / "node.json", "GH200-96GB", **options)  # type: ignore[arg-type]


async def gpu_of(driver: Driver) -> str:
    return (await driver.gpus())[0].uuid


async def test_a_simulated_gpu_says_so(tmp_path: Path) -> None:
    (gpu,) = await node(tmp_path).gpus()
    assert gpu.simulated
    assert (gpu.name, gpu.sm_count, gpu.memory_mib) == ("GH200-96GB", 132, 93 * 1024)


async def test_the_simulated_hardware_outlives_the_control_process(
    tmp_path: Path, start_process: Start
) -> None:
    first = node(tmp_path, n_gpus=2)
    made = await first.create((await first.gpus())[1].uuid, "3g.48gb", 4)
    child = start_process()
    await first.attach(made.uuid, child.pid)
    again = node(tmp_path, n_gpus=2)
    assert await again.gpus() == await first.gpus()
    assert await again.instances() == await first.instances()
    with pytest.raises(InUseError):
        await again.destroy(made.uuid)


async def test_a_recycled_pid_is_never_killed(tmp_path: Path, start_process: Start) -> None:
    first = node(tmp_path)
    made = await first.create(await gpu_of(first), "3g.48gb", 4)
    child = start_process()
    await first.attach(made.uuid, child.pid)
    # The file says that the process attached started earlier: its pid now belongs to another.
    path = tmp_path / "node.json"
    state = json.loads(path.read_text())
    state["instances"][made.uuid]["pids"][str(child.pid)] -= 60.0
    path.write_text(json.dumps(state))
    assert await node(tmp_path).evict(made.uuid) == ()
    assert child.poll() is None


async def test_a_change_goes_on_when_the_control_process_dies_in_it(tmp_path: Path) -> None:
    clock = ManualClock(1000.0)
    first = node(tmp_path, delays_s=(60.0, 60.0), clock=clock)
    making = asyncio.create_task(first.create(await gpu_of(first), "3g.48gb", 4))
    await asyncio.sleep(0)
    making.cancel()
    again = node(tmp_path, clock=clock)
    assert [one.state for one in await again.instances()] == ["creating"]
    clock.advance(60.0)
    assert [one.state for one in await again.instances()] == ["ready"]


async def test_changes_take_their_time(tmp_path: Path) -> None:
    slow = node(tmp_path, delays_s=(0.05, 0.03))
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    made = await slow.create(await gpu_of(slow), "1g.12gb", 0)
    created_s = loop.time()
    await slow.destroy(made.uuid)
    assert created_s - begun_s >= 0.049
    assert loop.time() - created_s >= 0.029


async def test_injected_faults_strike_before_or_after_the_change(tmp_path: Path) -> None:
    faulty = node(tmp_path)
    faulty.faults.before, faulty.faults.after = {1}, {2}
    gpu = await gpu_of(faulty)
    with pytest.raises(UnavailableError, match="call 1 failed"):
        await faulty.create(gpu, "1g.12gb", 0)
    assert await faulty.instances() == ()
    with pytest.raises(UnavailableError, match="after the change"):
        await faulty.create(gpu, "1g.12gb", 0)
    assert len(await faulty.instances()) == 1


async def test_a_gpu_off_the_bus_answers_nothing(tmp_path: Path) -> None:
    faulty = node(tmp_path)
    gpu = await gpu_of(faulty)
    faulty.inject_xid(gpu, 31)
    made = await faulty.create(gpu, "1g.12gb", 0)
    faulty.inject_xid(gpu, 79)
    (info,) = await faulty.gpus()
    assert (info.xids, info.lost) == ((31, 79), True)
    with pytest.raises(UnavailableError, match="XID 79"):
        await faulty.destroy(made.uuid)


async def test_this_process_never_kills_itself() -> None:
    started_s = processes.started_s(os.getpid())
    assert started_s is not None
    assert not await processes.kill(os.getpid(), started_s)
