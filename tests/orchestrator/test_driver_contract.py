"""What every driver must do; run over the simulated node and over NVML's recorded answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airan.core.errors import (
    CapacityError,
    InUseError,
    InvalidInputError,
    NotFoundError,
)
from orchestrator.drivers.base import Driver
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.simulated import SimulatedNode
from tests.orchestrator.recorded_nvml import RecordedNvml

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture(params=["simulated", "recorded NVML"])
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Driver:
    if request.param == "simulated":
        return SimulatedNode(tmp_path / "node.json", "H100-SXM5-80GB", delays_s=(0.0, 0.0))
    return NvmlNode(RecordedNvml())


async def gpu_of(driver: Driver) -> str:
    return (await driver.gpus())[0].uuid


async def test_the_gpu_and_how_it_may_be_divided_are_known(driver: Driver) -> None:
    (gpu,) = await driver.gpus()
    assert gpu.simulated == isinstance(driver, SimulatedNode)
    assert (gpu.name, gpu.sm_count, gpu.mig_mode) == ("H100-SXM5-80GB", 132, "enabled")
    assert gpu.memory_mib == pytest.approx(81_152, rel=0.01)
    assert not gpu.lost
    assert len(driver.geometry(gpu.uuid).layouts()) == 298
    with pytest.raises(NotFoundError):
        driver.geometry("GPU-none")


async def test_what_is_created_is_listed_with_its_place(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
    assert (await driver.instances()) == (made,)
    assert (made.placement.start, made.placement.size, made.sm_count) == (4, 4, 60)
    assert made.state == "ready"


async def test_an_instance_made_again_has_another_uuid(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    first = await driver.create(gpu, "1g.10gb", 0)
    await driver.destroy(first.uuid)
    assert await driver.instances() == ()
    assert (await driver.create(gpu, "1g.10gb", 0)).uuid != first.uuid


async def test_a_taken_place_answers_insufficient_resources(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    await driver.create(gpu, "4g.40gb", 0)
    with pytest.raises(CapacityError, match="insufficient resources"):
        await driver.create(gpu, "2g.20gb", 2)
    with pytest.raises(InvalidInputError):
        await driver.create(gpu, "3g.40gb", 2)
    with pytest.raises(NotFoundError):
        await driver.create("GPU-none", "3g.40gb", 4)
    assert len(await driver.instances()) == 1


async def test_an_instance_in_use_is_not_destroyed(driver: Driver, start_process: Start) -> None:
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
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
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
    child = start_process()
    await driver.attach(made.uuid, child.pid)
    child.kill()
    child.wait()
    assert (await driver.instances())[0].pids == ()
    await driver.destroy(made.uuid)


async def test_evicting_kills_the_attached_process_for_good(
    driver: Driver, start_process: Start
) -> None:
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
    child, bystander = start_process(), start_process()
    await driver.attach(made.uuid, child.pid)
    assert await driver.evict(made.uuid) == (child.pid,)
    assert child.wait(timeout=5) == -9
    assert bystander.poll() is None
    assert await driver.evict(made.uuid) == ()
    await driver.destroy(made.uuid)


async def test_attaching_no_process_or_to_no_instance_is_refused(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "1g.10gb", 6)
    with pytest.raises(NotFoundError, match="no process"):
        await driver.attach(made.uuid, 2**30)
    for call in (driver.attach("MIG-none", os.getpid()), driver.destroy("MIG-none")):
        with pytest.raises(NotFoundError, match="MIG-none"):
            await call
    await driver.detach("MIG-none", os.getpid())


async def test_others_keep_running_while_one_is_made(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    made = await asyncio.gather(driver.create(gpu, "1g.10gb", 0), driver.create(gpu, "1g.10gb", 1))
    assert {one.uuid for one in await driver.instances()} == {one.uuid for one in made}
