"""What every driver must do; run here over the simulated node."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airan.core.clock import ManualClock
from airan.core.errors import (
    CapacityError,
    InUseError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from orchestrator.drivers import processes
from orchestrator.drivers.base import Driver
from orchestrator.drivers.simulated import SimulatedNode

Start = Callable[[], "subprocess.Popen[bytes]"]


def node(path: Path, **options: object) -> SimulatedNode:
    options = {"delays_s": (0.0, 0.0)} | options
    return SimulatedNode(path / "node.json", "GH200-96GB", **options)  # type: ignore[arg-type]


@pytest.fixture(params=["simulated"])
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Driver:
    return node(tmp_path)


async def gpu_of(driver: Driver) -> str:
    return (await driver.gpus())[0].uuid


async def test_a_simulated_gpu_says_so(driver: Driver) -> None:
    (gpu,) = await driver.gpus()
    assert gpu.simulated
    assert (gpu.name, gpu.sm_count, gpu.memory_mib) == ("GH200-96GB", 132, 93 * 1024)


async def test_what_is_created_is_listed_with_its_place(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "3g.48gb", 4)
    assert (await driver.instances()) == (made,)
    assert (made.placement.start, made.placement.size, made.sm_count) == (4, 4, 60)
    assert made.state == "ready"


async def test_an_instance_made_again_has_another_uuid(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    first = await driver.create(gpu, "1g.12gb", 0)
    await driver.destroy(first.uuid)
    assert await driver.instances() == ()
    assert (await driver.create(gpu, "1g.12gb", 0)).uuid != first.uuid


async def test_a_taken_place_answers_insufficient_resources(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    await driver.create(gpu, "4g.48gb", 0)
    with pytest.raises(CapacityError, match="insufficient resources"):
        await driver.create(gpu, "2g.24gb", 2)
    with pytest.raises(InvalidInputError):
        await driver.create(gpu, "3g.48gb", 2)
    with pytest.raises(NotFoundError):
        await driver.create("GPU-none", "3g.48gb", 4)
    assert len(await driver.instances()) == 1


async def test_an_instance_in_use_is_not_destroyed(driver: Driver, start_process: Start) -> None:
    made = await driver.create(await gpu_of(driver), "3g.48gb", 4)
    child = start_process()
    await driver.attach(made.uuid, child.pid)
    assert (await driver.instances())[0].pids == (child.pid,)
    with pytest.raises(InUseError, match=str(child.pid)):
        await driver.destroy(made.uuid)
    await driver.detach(made.uuid, child.pid)
    await driver.detach(made.uuid, child.pid)
    await driver.destroy(made.uuid)
    assert child.poll() is None


async def test_a_dead_process_uses_nothing(driver: Driver, start_process: Start) -> None:
    made = await driver.create(await gpu_of(driver), "3g.48gb", 4)
    child = start_process()
    await driver.attach(made.uuid, child.pid)
    child.kill()
    child.wait()
    assert (await driver.instances())[0].pids == ()
    await driver.destroy(made.uuid)


async def test_evicting_kills_the_attached_process_for_good(
    driver: Driver, start_process: Start
) -> None:
    made = await driver.create(await gpu_of(driver), "3g.48gb", 4)
    child, bystander = start_process(), start_process()
    await driver.attach(made.uuid, child.pid)
    assert await driver.evict(made.uuid) == (child.pid,)
    assert child.wait(timeout=5) == -9
    assert bystander.poll() is None
    assert await driver.evict(made.uuid) == ()
    await driver.destroy(made.uuid)


async def test_attaching_no_process_or_to_no_instance_is_refused(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "1g.12gb", 6)
    with pytest.raises(NotFoundError, match="no process"):
        await driver.attach(made.uuid, 2**30)
    for call in (driver.attach("MIG-none", os.getpid()), driver.destroy("MIG-none")):
        with pytest.raises(NotFoundError, match="MIG-none"):
            await call
    await driver.detach("MIG-none", os.getpid())


async def test_others_keep_running_while_one_is_made(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    made = await asyncio.gather(driver.create(gpu, "1g.12gb", 0), driver.create(gpu, "1g.12gb", 1))
    assert {one.uuid for one in await driver.instances()} == {one.uuid for one in made}


# --- the simulated node's own


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
