"""A simulated GPU that is divided without MIG: its parts, their borders, and what may fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airan.core.clock import ManualClock
from airan.core.errors import CapacityError, InvalidInputError, UnavailableError
from orchestrator.drivers.simulated import SimulatedNode

GPU = "H100-SXM5-80GB"


def node(path: Path | None = None, kind: str = "green") -> SimulatedNode:
    return SimulatedNode(path, GPU, kind=kind, delays_s=(0.0, 0.0), clock=ManualClock(1000.0))


async def divided(some: SimulatedNode, cut: int = 64, kind: str = "green") -> tuple[str, str]:
    (gpu,) = await some.gpus()
    first = await some.create(gpu.uuid, f"{kind}.{cut}", 0)
    other = await some.create(gpu.uuid, f"{kind}.{132 - cut}", cut)
    return first.uuid, other.uuid


@pytest.mark.parametrize("kind", ["green", "mps"])
async def test_a_border_moves_under_running_processes(kind: str) -> None:
    some = node(kind=kind)
    first, other = await divided(some, kind=kind)
    await some.attach(other, os.getpid())
    shrunk = await some.resize(other, f"{kind}.36", 96)
    grown = await some.resize(first, f"{kind}.96", 0)
    assert (shrunk.uuid, shrunk.sm_count, shrunk.pids) == (other, 36, (os.getpid(),))
    assert (grown.uuid, grown.sm_count) == (first, 96)
    assert await some.instances() == (grown, shrunk)
    (gpu,) = await some.gpus()
    assert gpu.mig_mode == "disabled"
    some.geometry(gpu.uuid).check([grown.placement, shrunk.placement])


async def test_a_part_does_not_grow_over_another() -> None:
    some = node()
    first, _ = await divided(some)
    with pytest.raises(CapacityError, match=r"green\.68 at 64 is in the way"):
        await some.resize(first, "green.96", 0)
    with pytest.raises(InvalidInputError):
        await some.resize(first, "green.60", 0)
    assert [one.sm_count for one in await some.instances()] == [64, 68]


async def test_resizing_to_what_it_is_changes_nothing() -> None:
    some = node()
    first, _ = await divided(some)
    before = await some.instances()
    assert await some.resize(first, "green.64", 0) == before[0]
    assert await some.instances() == before


async def test_a_resize_fails_before_or_after_it_is_made() -> None:
    some = node()
    _, other = await divided(some)
    some.faults.before.add(3)
    some.faults.after.add(4)
    for there in (68, 36):
        with pytest.raises(UnavailableError, match="injected"):
            await some.resize(other, "green.36", 96)
        assert (await some.instances())[1].sm_count == there


async def test_parts_outlive_the_process_and_another_kind_of_division_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "node.json"
    some = node(path)
    await divided(some)
    assert await node(path).instances() == await some.instances()
    assert await node(path, "mps").instances() == ()


async def test_each_kind_takes_its_own_time() -> None:
    slow = SimulatedNode(None, GPU, kind="mps")
    assert slow.change_s == pytest.approx(0.49)
    assert SimulatedNode(None, GPU, kind="green").change_s == pytest.approx(0.0105)
    assert SimulatedNode(None, GPU).change_s == pytest.approx(0.4)
