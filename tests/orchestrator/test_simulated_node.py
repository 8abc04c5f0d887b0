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
from airan.core.errors import InUseError, NotFoundError, UnavailableError
from orchestrator.drivers import processes
from orchestrator.drivers.base import Driver
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.drivers.simulated_board import ASSUMED_IDLE_SHARE, ASSUMED_LIMIT_W
from orchestrator.mig import MigGeometry

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
    clock = ManualClock(1000.0)
    first = node(tmp_path, n_gpus=2, clock=clock)
    made = await first.create((await first.gpus())[1].uuid, "3g.48gb", 4)
    child = start_process()
    await first.attach(made.uuid, child.pid)
    clock.advance(60.0)
    again = node(tmp_path, n_gpus=2, clock=clock)
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


async def test_a_node_may_hold_gpus_of_several_products() -> None:
    mixed = SimulatedNode(None, gpus=("H100-SXM5-80GB", "B200-180GB"), delays_s=(0.0, 0.0))
    first, second = await mixed.gpus()
    assert [first.name, second.name] == ["H100-SXM5-80GB", "B200-180GB"]
    assert (await mixed.create(second.uuid, "1g.23gb", 0)).gpu_uuid == second.uuid
    with pytest.raises(NotFoundError, match=r"1g\.10gb"):
        await mixed.create(first.uuid, "1g.23gb", 0)
    assert mixed.geometry(second.uuid) == MigGeometry.load("B200-180GB")


async def test_a_node_kept_in_memory_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = SimulatedNode(None, "GH200-96GB", 3, delays_s=(0.0, 0.0))
    for gpu in await kept.gpus():
        await kept.create(gpu.uuid, "7g.96gb", 0)
    assert len(await kept.instances()) == 3
    assert list(tmp_path.iterdir()) == []


async def test_other_gpus_than_the_file_holds_are_a_new_node(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    (before,) = await SimulatedNode(path, "GH200-96GB").gpus()
    (after,) = await SimulatedNode(path, "H200-141GB").gpus()
    assert (before.uuid != after.uuid, after.name) == (True, "H200-141GB")


async def test_a_file_of_a_version_before_power_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    old = {
        "simulated": True,
        "gpu": "GH200-96GB",
        "gpus": [{"uuid": "GPU-old", "xids": [31]}],
        "instances": {},
    }
    path.write_text(json.dumps(old))
    (gpu,) = await SimulatedNode(path, "GH200-96GB").gpus()
    assert (gpu.uuid, gpu.xids, gpu.ecc_uncorrected) == ("GPU-old", (31,), 0)


async def test_every_product_has_an_assumed_power_limit() -> None:
    every = SimulatedNode(None, gpus=MigGeometry.known())
    for gpu in await every.gpus():
        assert gpu.power_limit_w == ASSUMED_LIMIT_W[gpu.name]
        assert gpu.power_w == pytest.approx(ASSUMED_IDLE_SHARE * gpu.power_limit_w)
        assert gpu.temperature_c == pytest.approx(32.0)


async def test_power_follows_use_and_energy_is_power_over_time(
    tmp_path: Path, start_process: Start
) -> None:
    clock = ManualClock(1000.0)
    used = node(tmp_path, clock=clock)
    whole = await used.create(await gpu_of(used), "7g.96gb", 0)
    clock.advance(100.0)
    (idle,) = await used.gpus()
    assert idle.energy_j == pytest.approx(100.0 * idle.power_w)  # type: ignore[operator]
    child = start_process()
    await used.attach(whole.uuid, child.pid)
    clock.advance(10.0)
    (busy,) = await used.gpus()
    assert (busy.power_w, busy.temperature_c) == (busy.power_limit_w, 68.0)
    assert busy.energy_j == pytest.approx(idle.energy_j + 10.0 * busy.power_w)  # type: ignore[operator]
    await used.evict(whole.uuid)
    assert (await used.gpus())[0].power_w == idle.power_w


async def test_memory_errors_and_xids_are_reported_until_the_gpu_is_reset(tmp_path: Path) -> None:
    faulty = node(tmp_path, n_gpus=2)
    hurt, well = (gpu.uuid for gpu in await faulty.gpus())
    await faulty.create(hurt, "1g.12gb", 0)
    kept = await faulty.create(well, "1g.12gb", 0)
    faulty.inject_ecc(hurt)
    faulty.inject_ecc(hurt, 2)
    faulty.inject_xid(hurt, 79)
    info, other = await faulty.gpus()
    assert (info.ecc_uncorrected, info.lost, other.ecc_uncorrected) == (3, True, 0)
    faulty.heal(hurt)
    (info, _) = await faulty.gpus()
    assert (info.ecc_uncorrected, info.lost, info.xids) == (0, False, ())
    assert await faulty.instances() == (kept,), "a reset takes the GPU's instances with it"
    await faulty.create(hurt, "7g.96gb", 0)


async def test_an_instance_made_while_its_gpu_is_reset_fails(tmp_path: Path) -> None:
    faulty = node(tmp_path, delays_s=(0.01, 0.0))
    gpu = await gpu_of(faulty)
    making = asyncio.create_task(faulty.create(gpu, "3g.48gb", 4))
    await asyncio.sleep(0)
    faulty.heal(gpu)
    with pytest.raises(UnavailableError, match="reset"):
        await making
    assert await faulty.instances() == ()


async def test_a_hanging_call_goes_on_once_released(tmp_path: Path) -> None:
    faulty = node(tmp_path)
    faulty.faults.hanging = {1}
    gpu = await gpu_of(faulty)
    hung = asyncio.create_task(faulty.create(gpu, "3g.48gb", 4))
    await asyncio.sleep(0)
    other = await faulty.create(gpu, "3g.48gb", 0)
    assert await faulty.instances() == (other,)
    assert not hung.done()
    faulty.faults.release()
    assert (await hung).placement.start == 4


async def test_a_gpu_lost_while_a_call_hangs_fails_it(tmp_path: Path) -> None:
    faulty = node(tmp_path)
    faulty.faults.hanging = {1}
    gpu = await gpu_of(faulty)
    hung = asyncio.create_task(faulty.create(gpu, "3g.48gb", 4))
    await asyncio.sleep(0)
    faulty.inject_xid(gpu, 79)
    faulty.faults.release()
    with pytest.raises(UnavailableError, match="XID 79"):
        await hung
