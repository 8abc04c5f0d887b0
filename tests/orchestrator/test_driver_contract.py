"""What every driver must do; run over the simulated node, over NVML's recorded answers, and
over a pool whose node fences epochs.

The read-only half runs on this machine's GPUs too, where it has some."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from airan.core.errors import (
    CapacityError,
    InUseError,
    InvalidInputError,
    NotFoundError,
    PermanentError,
    UnavailableError,
)
from orchestrator.drivers.base import Driver, GpuInventory
from orchestrator.drivers.epoch import EpochDriver, EpochGate
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.pool import PoolDriver
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.mig import MigGeometry
from tests.orchestrator.recorded_nvml import RecordedNvml

Start = Callable[[], "subprocess.Popen[bytes]"]
KINDS = ("simulated", "recorded NVML", "pool")


@dataclass
class Rig:
    """A driver, and what happens to the hardware behind it."""

    driver: Driver
    lose: Callable[[str], None]
    """The GPU falls off the bus."""
    hang: Callable[[], None]
    """The next instance made hangs in the driver."""
    release: Callable[[], None]
    """What hangs goes on."""


def simulated_rig(path: Path) -> Rig:
    node = SimulatedNode(path / "node.json", "H100-SXM5-80GB", delays_s=(0.0, 0.0))
    node.faults.timeout_s = 0.02
    return Rig(
        node,
        lose=lambda gpu: node.inject_xid(gpu, 79),
        hang=lambda: node.faults.hanging.add(node.faults.calls + 1),
        release=node.faults.release,
    )


def pool_rig(path: Path) -> Rig:
    """The simulated node of an epoch, in a pool."""
    rig = simulated_rig(path)
    host = socket.gethostname()
    fenced = EpochDriver(rig.driver, EpochGate(host, path / "epoch"), 1)
    return replace(rig, driver=PoolDriver({host: fenced}))


def recorded_rig(timeout_s: float = 30.0) -> Rig:
    nvml = RecordedNvml()

    def lose(gpu: str) -> None:
        nvml.lost = True
        nvml.xids.append(79)

    node = NvmlNode(nvml, timeout_s=timeout_s)
    return Rig(node, lose=lose, hang=nvml.answering.clear, release=nvml.answering.set)


@pytest.fixture(params=KINDS)
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    rigs = {"simulated": simulated_rig, "pool": pool_rig}
    make = rigs.get(request.param)
    made = make(tmp_path) if make else recorded_rig(0.5)
    yield made
    made.release()
    if isinstance(made.driver, NvmlNode):
        made.driver.close()


@pytest.fixture
def driver(rig: Rig) -> Driver:
    return rig.driver


@pytest.fixture(params=[*KINDS, pytest.param("this machine's NVML", marks=pytest.mark.gpu)])
def inventory(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[GpuInventory]:
    """For the read-only half, which a real GPU keeps too: nothing here changes it."""
    if request.param in ("simulated", "pool"):
        made = simulated_rig(tmp_path) if request.param == "simulated" else pool_rig(tmp_path)
        yield made.driver
        return
    try:
        node = NvmlNode() if request.param == "this machine's NVML" else NvmlNode(RecordedNvml())
    except UnavailableError as error:
        pytest.skip(f"no GPU here: {error.message}")
    yield node
    node.close()


async def gpu_of(driver: Driver) -> str:
    return (await driver.gpus())[0].uuid


# --- reading


async def test_every_gpu_is_known_with_its_host_and_health(inventory: GpuInventory) -> None:
    gpus = await inventory.gpus()
    assert gpus
    assert len({gpu.uuid for gpu in gpus}) == len(gpus)
    for gpu in gpus:
        assert gpu.simulated == isinstance(inventory, SimulatedNode | PoolDriver)
        assert gpu.node == socket.gethostname()
        assert gpu.mig_mode in ("enabled", "disabled", "unsupported")
        assert not gpu.lost
        assert gpu.memory_mib > 1024
        assert gpu.ecc_uncorrected >= 0
        assert gpu.power_w is None or 0 < gpu.power_w <= 1.2 * (gpu.power_limit_w or gpu.power_w)
        assert gpu.temperature_c is None or 0 < gpu.temperature_c < 120


async def test_every_gpu_says_how_it_may_be_divided(inventory: GpuInventory) -> None:
    for gpu in await inventory.gpus():
        geometry = inventory.geometry(gpu.uuid)
        assert (geometry.gpu, geometry.sm_count) == (gpu.name, gpu.sm_count)
        assert (geometry.kind == "mig") == (gpu.mig_mode == "enabled")
        assert geometry.memory_mib == pytest.approx(gpu.memory_mib, rel=0.02)
        if geometry.kind == "mig":
            assert len(geometry.layouts()) == 298
    with pytest.raises(NotFoundError):
        inventory.geometry("GPU-none")


async def test_what_stands_on_a_gpu_is_legal_there(inventory: GpuInventory) -> None:
    there = await inventory.instances()
    for gpu in await inventory.gpus():
        own = [one.placement for one in there if one.gpu_uuid == gpu.uuid]
        inventory.geometry(gpu.uuid).check(own)
    assert {one.gpu_uuid for one in there} <= {gpu.uuid for gpu in await inventory.gpus()}


async def test_reading_changes_nothing_and_energy_never_falls(inventory: GpuInventory) -> None:
    first, there = await inventory.gpus(), await inventory.instances()
    second = await inventory.gpus()
    assert [gpu.uuid for gpu in first] == [gpu.uuid for gpu in second]
    assert await inventory.instances() == there
    for before, after in zip(first, second, strict=True):
        assert (before.energy_j is None) == (after.energy_j is None)
        assert (before.energy_j or 0.0) <= (after.energy_j or 0.0)


# --- changing


async def test_an_h100_is_known_as_one(driver: Driver) -> None:
    (gpu,) = await driver.gpus()
    assert (gpu.name, gpu.sm_count, gpu.mig_mode) == ("H100-SXM5-80GB", 132, "enabled")
    assert driver.geometry(gpu.uuid) == MigGeometry.load("H100-SXM5-80GB")


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


async def test_no_more_of_a_profile_than_there_may_be(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    await driver.create(gpu, "1g.10gb+me", 0)
    with pytest.raises(CapacityError, match="insufficient resources"):
        await driver.create(gpu, "1g.10gb+me", 1)
    await driver.create(gpu, "1g.10gb", 1)


async def test_instances_come_by_their_start(driver: Driver) -> None:
    gpu = await gpu_of(driver)
    for profile, start in (("3g.40gb", 4), ("1g.20gb", 2), ("1g.10gb", 0)):
        await driver.create(gpu, profile, start)
    found = [(one.placement.profile, one.placement.start) for one in await driver.instances()]
    assert found == [("1g.10gb", 0), ("1g.20gb", 2), ("3g.40gb", 4)]


async def test_a_lost_gpu_stays_known_and_answers_nothing(rig: Rig) -> None:
    driver, gpu = rig.driver, await gpu_of(rig.driver)
    made = await driver.create(gpu, "3g.40gb", 4)
    assert await driver.instances() == (made,)
    rig.lose(gpu)
    (info,) = await driver.gpus()
    assert (info.uuid, info.lost, info.xids) == (gpu, True, (79,))
    assert (info.power_w, info.energy_j, info.temperature_c) == (None, None, None)
    assert await driver.instances() == ()
    for call in (driver.create(gpu, "1g.10gb", 0), driver.destroy(made.uuid)):
        with pytest.raises(UnavailableError, match="lost"):
            await call


async def test_what_ran_on_a_lost_gpu_can_be_evicted(rig: Rig, start_process: Start) -> None:
    driver, gpu = rig.driver, await gpu_of(rig.driver)
    made = await driver.create(gpu, "3g.40gb", 4)
    child = start_process()
    await driver.attach(made.uuid, child.pid)
    await driver.instances()
    rig.lose(gpu)
    assert await driver.evict(made.uuid) == (child.pid,)
    assert child.wait(timeout=5) == -9


async def test_a_call_that_hangs_fails_in_time_and_others_go_on_after_it(rig: Rig) -> None:
    driver, gpu = rig.driver, await gpu_of(rig.driver)
    rig.hang()
    with pytest.raises(UnavailableError, match="has not answered within"):
        await driver.create(gpu, "1g.10gb", 0)
    rig.release()
    # It may still have been carried out: the inventory tells.
    assert len(await driver.instances()) <= 1
    made = await driver.create(gpu, "3g.40gb", 4)
    assert made in await driver.instances()


async def test_evicting_spares_the_control_process(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
    await driver.attach(made.uuid, os.getpid())
    assert await driver.evict(made.uuid) == ()


# --- moving borders


async def test_a_mig_instance_keeps_its_size(driver: Driver) -> None:
    made = await driver.create(await gpu_of(driver), "3g.40gb", 4)
    with pytest.raises(PermanentError, match="create another"):
        await driver.resize(made.uuid, "4g.40gb", 0)
    with pytest.raises(NotFoundError):
        await driver.resize("MIG-none", "4g.40gb", 0)
    assert await driver.instances() == (made,)
