"""NVML's driver beyond the contract: errors, health, MIG mode off, half-made instances."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pynvml
import pytest

from airan.core import errors
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.nvml_errors import KNOWN, Translator, from_nvml
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
    assert name in KNOWN, "unmapped"
    ours = from_nvml(name, "creating 3g.40gb")
    assert name in ours.message
    assert "creating 3g.40gb" in ours.message
    assert ours.remedy
    assert isinstance(ours, (errors.RetryableError, errors.PermanentError))


@pytest.mark.parametrize("name", NAMES)
async def test_an_error_in_a_call_reaches_the_caller_as_ours(name: str) -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    nvml.fail["nvmlDeviceCreateGpuInstanceWithPlacement"] = getattr(pynvml, name)
    with pytest.raises(KNOWN[name][0], match=name) as raised:
        await node.create(GPU_UUID, "3g.40gb", 4)
    assert isinstance(raised.value.__cause__, pynvml.NVMLError)
    assert "3g.40gb at slice 4" in raised.value.message


def test_an_error_that_a_later_driver_adds_is_permanent() -> None:
    translator = Translator(pynvml)
    with (
        pytest.raises(errors.PermanentError, match="NVML_ERROR_777"),
        translator.translated("asking"),
    ):
        raise pynvml.NVMLError(777)


def test_a_library_of_another_time_than_the_driver_is_told_so() -> None:
    translator = Translator(pynvml)
    with (
        pytest.raises(errors.PermanentError, match="update the older one"),
        translator.translated("asking"),
    ):
        raise pynvml.NVMLLibraryMismatchError


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
    assert node.geometry(GPU_UUID) == MigGeometry.load("H100-SXM5-80GB")


async def test_without_privilege_the_placements_come_from_the_table() -> None:
    node = NvmlNode(RecordedNvml(privileged=False))
    await node.gpus()
    assert node.geometry(GPU_UUID) == MigGeometry.load("H100-SXM5-80GB")
    with pytest.raises(errors.PermanentError, match="run as root"):
        await node.create(GPU_UUID, "3g.40gb", 4)


async def test_a_product_without_a_table_is_divided_by_what_its_driver_says() -> None:
    nvml = RecordedNvml()
    nvml.name = "NVIDIA H100 PCIe"
    nvml.by_enum[4]["multiprocessor_count"] = 114
    node = NvmlNode(nvml)
    (gpu,) = await node.gpus()
    assert (gpu.name, gpu.sm_count) == ("NVIDIA H100 PCIe", 114)
    assert len(node.geometry(GPU_UUID).layouts()) == 298


async def test_a_gpu_that_cannot_be_divided_is_listed_without_a_geometry() -> None:
    nvml = RecordedNvml(mig=False)
    nvml.name = "NVIDIA L4"
    nvml.by_enum.clear()
    node = NvmlNode(nvml)
    (gpu,) = await node.gpus()
    assert (gpu.name, gpu.sm_count) == ("NVIDIA L4", 0)
    with pytest.raises(errors.NotFoundError):
        node.geometry(GPU_UUID)


async def test_health_is_read_and_what_cannot_be_read_is_none() -> None:
    nvml = RecordedNvml()
    node = NvmlNode(nvml)
    nvml.xids += [31, 94]
    (gpu,) = await node.gpus()
    assert gpu.xids == (31, 94)
    assert (gpu.power_w, gpu.power_limit_w, gpu.energy_j) == (118.0, 700.0, 5000.0)
    assert gpu.ecc_uncorrected == 3
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


async def test_a_gpu_off_the_bus_before_the_start_is_listed_as_lost() -> None:
    nvml = RecordedNvml()
    nvml.fail["nvmlDeviceGetHandleByIndex"] = pynvml.NVML_ERROR_GPU_IS_LOST
    node = NvmlNode(nvml)
    (gpu,) = await node.gpus()
    assert (gpu.lost, gpu.sm_count) == (True, 0)
    assert await node.instances() == ()
    with pytest.raises(errors.UnavailableError, match="lost"):
        await node.create(gpu.uuid, "3g.40gb", 4)


async def test_mig_mode_switched_by_an_administrator_is_seen() -> None:
    nvml = RecordedNvml(mig=False)
    node = NvmlNode(nvml)
    await node.gpus()
    nvml.mig = True
    (gpu,) = await node.gpus()
    assert gpu.mig_mode == "enabled"
    assert node.geometry(GPU_UUID).kind == "mig"
    assert (await node.create(GPU_UUID, "3g.40gb", 4)).state == "ready"


async def test_mig_mode_is_never_switched_but_its_remedy_told() -> None:
    node = NvmlNode(RecordedNvml(mig=False))
    (gpu,) = await node.gpus()
    assert gpu.mig_mode == "disabled"
    assert node.geometry(GPU_UUID).kind == "whole"
    with pytest.raises(errors.PermanentError, match="nvidia-smi -i GPU -mig 1"):
        await node.create(GPU_UUID, "3g.40gb", 4)


async def test_a_gpu_without_mig_is_one_partition_that_is_always_there() -> None:
    node = NvmlNode(RecordedNvml(mig=False))
    (gpu,) = await node.gpus()
    (part,) = await node.instances()
    assert (part.uuid, part.gpu_uuid, part.sm_count) == (gpu.uuid, gpu.uuid, gpu.sm_count)
    node.geometry(gpu.uuid).check([part.placement])
    with pytest.raises(errors.PermanentError, match="whole GPU"):
        await node.destroy(part.uuid)
    with pytest.raises(errors.PermanentError, match="no way to resize"):
        await node.resize(part.uuid, "whole.132", 0)
    await node.attach(part.uuid, os.getpid())
    with pytest.raises(errors.InUseError, match=str(os.getpid())):
        await node.destroy(part.uuid)
    await node.detach(part.uuid, os.getpid())
    assert await node.instances() == (part,)
    node.close()


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
