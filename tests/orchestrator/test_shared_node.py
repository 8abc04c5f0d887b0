"""A real GPU divided by MPS or green contexts, over NVML's recorded answers: books and rules."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airan.core.errors import (
    CapacityError,
    ConfigError,
    InUseError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from orchestrator.drivers.base import Driver
from orchestrator.drivers.environment import PartOf, Side, client, environment, folders_in
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.shared_node import SharedNode
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.policy import Policy
from tests.orchestrator.recorded_nvml import RecordedNvml
from tests.orchestrator.site import Site

Start = Callable[[], "subprocess.Popen[bytes]"]
KINDS = ("green", "mps")


def real(path: Path, kind: str, nvml: RecordedNvml | None = None) -> SharedNode:
    nvml = nvml or RecordedNvml(mig=False)
    return SharedNode(NvmlNode(nvml, share_kind=kind), path / "parts.json")


def simulated(path: Path, kind: str) -> SimulatedNode:
    return SimulatedNode(path / "n.json", "H100-SXM5-80GB", kind=kind, delays_s=(0.0, 0.0))


@pytest.fixture(params=[(make, kind) for make in (real, simulated) for kind in KINDS])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Driver, str]]:
    """The contract of parts, over the real driver and over the simulated one."""
    make, kind = request.param
    driver = make(tmp_path, kind)
    yield driver, kind
    if isinstance(driver, SharedNode):
        driver.close()


async def divided(driver: Driver, kind: str, cut: int = 64) -> tuple[str, str, str]:
    (gpu,) = await driver.gpus()
    first = await driver.create(gpu.uuid, f"{kind}.{cut}", 0)
    other = await driver.create(gpu.uuid, f"{kind}.{132 - cut}", cut)
    return gpu.uuid, first.uuid, other.uuid


async def test_two_parts_are_the_whole_gpu(shared: tuple[Driver, str]) -> None:
    driver, kind = shared
    gpu, first, other = await divided(driver, kind)
    there = await driver.instances()
    assert [(one.uuid, one.sm_count, one.state) for one in there] == [
        (first, 64, "ready"),
        (other, 68, "ready"),
    ]
    geometry = driver.geometry(gpu)
    geometry.check([one.placement for one in there])
    assert geometry.kind == kind
    assert sum(one.memory_mib for one in there) <= geometry.memory_mib


async def test_a_taken_or_impossible_place_is_refused(shared: tuple[Driver, str]) -> None:
    driver, kind = shared
    gpu, *_ = await divided(driver, kind)
    with pytest.raises(CapacityError, match="in the way"):
        await driver.create(gpu, f"{kind}.32", 0)
    with pytest.raises(InvalidInputError):
        await driver.create(gpu, f"{kind}.33", 0)
    for where, profile in ((gpu, "3g.40gb"), ("GPU-none", f"{kind}.64")):
        with pytest.raises(NotFoundError):
            await driver.create(where, profile, 0)
    assert len(await driver.instances()) == 2


async def test_a_border_moves_under_a_running_process(shared: tuple[Driver, str]) -> None:
    driver, kind = shared
    _, first, other = await divided(driver, kind)
    await driver.attach(other, os.getpid())
    with pytest.raises(CapacityError):
        await driver.resize(first, f"{kind}.96", 0)
    shrunk = await driver.resize(other, f"{kind}.36", 96)
    grown = await driver.resize(first, f"{kind}.96", 0)
    assert await driver.resize(first, f"{kind}.96", 0) == grown
    assert (shrunk.uuid, shrunk.sm_count, shrunk.pids) == (other, 36, (os.getpid(),))
    assert await driver.instances() == (grown, shrunk)
    with pytest.raises(NotFoundError):
        await driver.resize("PART-none", f"{kind}.96", 0)


async def test_a_part_in_use_is_not_destroyed_and_evicting_kills_its_process(
    shared: tuple[Driver, str], start_process: Start
) -> None:
    driver, kind = shared
    _, first, _ = await divided(driver, kind)
    child, bystander = start_process(), start_process()
    await driver.attach(first, child.pid)
    with pytest.raises(InUseError, match=str(child.pid)):
        await driver.destroy(first)
    assert await driver.evict(first) == (child.pid,)
    assert child.wait(timeout=5) == -9
    assert bystander.poll() is None
    await driver.destroy(first)
    with pytest.raises(NotFoundError):
        await driver.destroy(first)


async def test_detaching_and_dead_processes_leave_a_part_free(
    shared: tuple[Driver, str], start_process: Start
) -> None:
    driver, kind = shared
    _, first, other = await divided(driver, kind)
    child = start_process()
    await driver.attach(first, os.getpid())
    await driver.detach(first, os.getpid())
    await driver.detach(first, os.getpid())
    await driver.attach(other, child.pid)
    child.kill()
    child.wait()
    assert [one.pids for one in await driver.instances()] == [(), ()]
    with pytest.raises(NotFoundError, match="no process"):
        await driver.attach(first, 2**30)
    await driver.destroy(first)
    await driver.destroy(other)


async def test_the_books_outlive_the_process_and_another_kind_of_division_does_not(
    tmp_path: Path,
) -> None:
    before = real(tmp_path, "green")
    await divided(before, "green")
    kept = await before.instances()
    before.close()
    again, other = real(tmp_path, "green"), real(tmp_path, "mps")
    assert await again.instances() == kept
    assert await other.instances() == ()
    await divided(other, "mps")
    assert len(await other.instances()) == 2
    assert await real(tmp_path, "green").instances() == ()


async def test_books_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "parts.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"parts\.json"):
        real(tmp_path, "green")


async def test_a_lost_gpu_has_no_parts_and_its_processes_can_be_evicted(
    tmp_path: Path, start_process: Start
) -> None:
    nvml = RecordedNvml(mig=False)
    driver = real(tmp_path, "green", nvml)
    gpu, first, _ = await divided(driver, "green")
    child = start_process()
    await driver.attach(first, child.pid)
    nvml.lost = True
    assert await driver.instances() == ()
    for call in (
        driver.create(gpu, "green.64", 0),
        driver.destroy(first),
        driver.resize(first, "green.96", 0),
    ):
        with pytest.raises(UnavailableError, match="lost"):
            await call
    assert await driver.evict(first) == (child.pid,)


async def test_a_gpu_with_mig_on_is_divided_by_mig_all_the_same(tmp_path: Path) -> None:
    driver = real(tmp_path, "green", RecordedNvml())
    (gpu,) = await driver.gpus()
    made = await driver.create(gpu.uuid, "3g.40gb", 4)
    assert await driver.instances() == (made,)
    await driver.attach(made.uuid, os.getpid())
    await driver.detach(made.uuid, os.getpid())
    await driver.destroy(made.uuid)
    assert await driver.instances() == ()


# --- plans over it


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plan_divides_it_and_its_border_follows_the_policy_under_a_lease(
    tmp_path: Path, kind: str, start_process: Start
) -> None:
    site = Site(tmp_path, driver=real(tmp_path, kind))
    await site.control.start()
    await site.control.set_policy(Policy(kind="static", ran_share=0.4), dry_run=False)
    await site.play(0.3)
    (gpu,) = (await site.control.status()).gpus
    assert not gpu.simulated
    sms = {part.role: part.sm_count for part in gpu.partitions}
    assert sms["ran"] + sms["ai"] == gpu.memory_slices == 132
    assert {part.profile.partition(".")[0] for part in gpu.partitions} == {kind}
    holder = start_process()
    lease = await site.control.leases.acquire("engine-0", holder.pid, 1, 50)
    part = PartOf(lease.partition_id, lease.gpu_uuid, lease.profile, lease.sm_count)
    found = environment(part, Side("ai", 60_000), gpu.sm_count, folders_in(tmp_path))
    assert found["CUDA_VISIBLE_DEVICES"] == gpu.uuid
    await site.control.set_policy(Policy(kind="static", ran_share=0.7), dry_run=False)
    await site.play(0.3)
    (busy,) = (await site.control.status()).gpus
    moved = {part.role: part.sm_count for part in busy.partitions}
    assert moved["ran"] > sms["ran"]
    (kept,) = site.control.leases.live()
    assert kept.id == lease.id
    assert kept.sm_count == moved["ai"] < lease.sm_count
    assert "lease.resized" in site.kinds()
    assert holder.poll() is None
    await site.close()

    # The next control plane finds everything as it was.
    again = Site(tmp_path, driver=real(tmp_path, kind))
    await again.control.start()
    (same,) = (await again.control.status()).gpus
    assert [part.id for part in same.partitions] == [part.id for part in busy.partitions]
    assert [one.id for one in again.control.leases.live()] == [lease.id]
    await again.close()


# --- what holders are started with


def test_an_engine_on_a_green_part_is_a_client_of_lower_priority_with_a_memory_limit() -> None:
    part = PartOf("PART-1", "GPU-1", "green.68", 68)
    found = environment(part, Side("ai", 60_000), 132, folders_in(Path("/s")))
    assert found == {
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_MPS_PIPE_DIRECTORY": "/s/mps/pipe",
        "CUDA_MPS_LOG_DIRECTORY": "/s/mps/log",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=60000M",
        "CUDA_MPS_CLIENT_PRIORITY": "1",
    }


def test_an_mps_part_also_fixes_the_share_of_sms() -> None:
    part = PartOf("PART-1", "GPU-1", "mps.66", 66)
    found = environment(part, Side("ai"), 132, folders_in(Path("/s")))
    assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in found


def test_the_rans_side_goes_first_and_cuts_its_own_sms() -> None:
    found = client(Side("ran", 12_288), folders_in(Path("/s")))
    assert "CUDA_MPS_CLIENT_PRIORITY" not in found
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=12288M"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in found


def test_mig_instances_and_whole_gpus_are_named_by_their_uuid_alone() -> None:
    for part, seen in (
        (PartOf("MIG-1", "GPU-1", "3g.40gb", 60), "MIG-1"),
        (PartOf("GPU-1", "GPU-1", "whole.132", 132), "GPU-1"),
    ):
        assert environment(part, Side("ai", 1000), 132, None) == {"CUDA_VISIBLE_DEVICES": seen}


def test_a_part_by_mps_without_a_daemon_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="MPS daemon"):
        environment(PartOf("PART-1", "GPU-1", "green.68", 68), Side("ai"), 132, None)
