"""NVML's driver beyond the contract: errors, health, MIG mode off, half-made instances."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pynvml
import pytest

from airan.core import errors
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.nvml_errors import from_nvml
from orchestrator.mig import MigGeometry
from tests.orchestrator.recorded_nvml import GPU_UUID, RecordedNvml

Start = Callable[[], "subprocess.Popen[bytes]"]
NAMES = sorted(
    name
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_of_nvml_becomes_one_of_ours(name: str) -> None:
    ours = from_nvml(name, "creating 3g.40gb")
    assert name in ours.message
    assert "creating 3g.40gb" in ours.message
    assert ours.remedy
    assert isinstance(ours, (errors.RetryableError, errors.PermanentError))


def test_the_errors_that_matter_have_their_own_kind() -> None:
    kinds = {
        "NVML_ERROR_IN_USE": errors.InUseError,
        "NVML_ERROR_INSUFFICIENT_RESOURCES": errors.CapacityError,
        "NVML_ERROR_NOT_FOUND": errors.NotFoundError,
        "NVML_ERROR_GPU_IS_LOST": errors.UnavailableError,
        "NVML_ERROR_NO_PERMISSION": errors.PermanentError,
    }
    for name, kind in kinds.items():
        assert type(from_nvml(name, "x")) is kind


async def test_the_recorded_geometry_is_the_published_one() -> None:
    node = NvmlNode(RecordedNvml())
    await node.gpus()
    read, table = node.geometry(GPU_UUID), MigGeometry.load("H100-SXM5-80GB")
    assert read.layouts() == table.layouts()
    for profile in table.profiles:
        found = read.profile(profile.name)
        assert found.sm_count == profile.sm_count
        assert found.memory_mib == pytest.approx(profile.memory_mib, abs=8)


async def test_without_privilege_the_placements_come_from_the_table() -> None:
    node = NvmlNode(RecordedNvml(privileged=False))
    await node.gpus()
    assert len(node.geometry(GPU_UUID).layouts()) == 298


async def test_health_is_read_and_what_cannot_be_read_is_none() -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    nvml.xids += [31, 94]
    (gpu,) = await node.gpus()
    assert gpu.xids == (31, 94)
    assert (gpu.power_w, gpu.power_limit_w, gpu.energy_j) == (118.0, 700.0, 5000.0)
    assert gpu.temperature_c is None
    assert gpu.node


async def test_a_gpu_off_the_bus_stays_known_as_lost() -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    (before,) = await node.gpus()
    nvml.lost = True
    (gpu,) = await node.gpus()
    assert gpu.lost
    assert (gpu.uuid, gpu.name) == (before.uuid, before.name)
    assert await node.instances() == ()
    with pytest.raises(errors.UnavailableError, match="lost"):
        await node.create(GPU_UUID, "3g.40gb", 4)
    nvml.lost = False
    assert not (await node.gpus())[0].lost


async def test_mig_mode_is_never_switched_but_its_remedy_told() -> None:
    node = NvmlNode(RecordedNvml(mig=False))
    (gpu,) = await node.gpus()
    assert gpu.mig_mode == "disabled"
    assert node.geometry(GPU_UUID).kind == "green"
    assert await node.instances() == ()
    with pytest.raises(errors.PermanentError, match="nvidia-smi -i GPU -mig 1"):
        await node.create(GPU_UUID, "3g.40gb", 4)


async def test_half_an_instance_is_removed_again() -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    nvml.fail["nvmlGpuInstanceCreateComputeInstance"] = pynvml.NVML_ERROR_UNKNOWN
    with pytest.raises(errors.UnavailableError, match="compute instance"):
        await node.create(GPU_UUID, "3g.40gb", 4)
    assert nvml.instances == {}


async def test_half_an_instance_that_stayed_is_seen_and_can_be_destroyed() -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    nvml.fail["nvmlGpuInstanceCreateComputeInstance"] = pynvml.NVML_ERROR_UNKNOWN
    nvml.fail["nvmlGpuInstanceDestroy"] = pynvml.NVML_ERROR_UNKNOWN
    with pytest.raises(errors.UnavailableError):
        await node.create(GPU_UUID, "3g.40gb", 4)
    (left,) = await node.instances()
    assert left.placement.start == 4
    await node.destroy(left.uuid)
    assert await node.instances() == ()


async def test_a_process_that_only_nvml_knows_keeps_the_instance_in_use(
    start_process: Start,
) -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    made = await node.create(GPU_UUID, "3g.40gb", 4)
    child = start_process()
    next(iter(nvml.instances.values())).pids.append(child.pid)
    assert (await node.instances())[0].pids == (child.pid,)
    with pytest.raises(errors.InUseError, match=str(child.pid)):
        await node.destroy(made.uuid)
    assert await node.evict(made.uuid) == (child.pid,)
    assert child.wait(timeout=5) == -9


@pytest.mark.gpu
async def test_a_real_gpu_is_read() -> None:
    """The read-only half of the contract on the GPU of this machine; changes nothing."""
    try:
        node = NvmlNode()
    except errors.UnavailableError as error:
        pytest.skip(f"no GPU: {error.message}")
    for gpu in await node.gpus():
        assert not gpu.simulated
        assert gpu.sm_count > 0
        assert gpu.memory_mib > 0
        assert gpu.power_w is None or gpu.power_w > 0
        geometry = node.geometry(gpu.uuid)
        assert geometry.sm_count == gpu.sm_count
        if gpu.mig_mode != "enabled":
            with pytest.raises(errors.PermanentError, match="MIG mode"):
                await node.create(gpu.uuid, "1g.10gb", 0)
    for one in await node.instances():
        node.geometry(one.gpu_uuid).check([one.placement])
