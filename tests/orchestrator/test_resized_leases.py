"""The border between the two sides moves under a lease: its size follows, its holder is told."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from airan.core.errors import PermanentError
from orchestrator.mig import Placement
from orchestrator.steps import Step
from orchestrator.store import Store
from orchestrator.views import Lease, LeaseEvent
from tests.orchestrator.faulty import DEATH, Rig, Split, at_once

Start = Callable[[], "subprocess.Popen[bytes]"]
KINDS = ("green", "mps")
_MOST = 80


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "control.sqlite")
    yield store
    store.close()


def cut_at(sms: int, kind: str) -> Split:
    """The RAN has so many SMs, the AI the rest."""
    return {(f"{kind}.{sms}", 0): "ran", (f"{kind}.{132 - sms}", sms): "ai"}


async def leased(store: Store, start: Start, kind: str, cut: int = 40) -> Rig:
    """A site whose AI part is leased."""
    rig = Rig(store, kind=kind)
    await rig.begin([cut_at(cut, kind)], start().pid)
    return rig


def lease_of(rig: Rig) -> Lease:
    (lease,) = rig.control.leases.live()
    return lease


def check_size(rig: Rig) -> None:
    """The lease is as large as its partition, in the store too."""
    lease = lease_of(rig)
    parts = {one.uuid: one for one in at_once(rig.node.instances())}
    part = parts[lease.partition_id]
    found = (lease.profile, lease.sm_count, lease.memory_mib)
    assert found == (part.placement.profile, part.sm_count, part.memory_mib)
    assert [kept for kept, _ in rig.store.leases()] == [lease]


@asynccontextmanager
async def watched(rig: Rig) -> AsyncIterator[list[LeaseEvent]]:
    """What the lease's holder is told from now on, after the snapshot."""
    told: list[LeaseEvent] = []

    async def watch() -> None:
        async for event in rig.control.leases.watch(lease_of(rig).holder):
            if event.kind != "snapshot":
                told.append(event)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    yield told
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def heard() -> None:
    """The watch has had its turns of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(40, 96), (96, 40)])
async def test_the_holder_keeps_its_lease_and_is_told_its_new_size(
    store: Store, start_process: Start, kind: str, before: int, after: int
) -> None:
    rig = await leased(store, start_process, kind, before)
    lease, pids = lease_of(rig), at_once(rig.node.instances())[1].pids
    async with watched(rig) as told:
        rig.store_plan(cut_at(after, kind))
        await rig.settle()
        await heard()
    assert rig.split() == cut_at(after, kind)
    assert [(one.kind, one.lease and one.lease.sm_count) for one in told] == [
        ("resized", 132 - after)
    ]
    assert (lease_of(rig).id, lease_of(rig).partition_id) == (lease.id, lease.partition_id)
    assert at_once(rig.node.instances())[1].pids == pids != ()
    check_size(rig)
    rig.check()
    await rig.close()


async def test_a_resize_is_told_once(store: Store, start_process: Start) -> None:
    rig = await leased(store, start_process, "green")
    async with watched(rig) as told:
        rig.store_plan(cut_at(96, "green"))
        await rig.settle()
        for _ in range(3):
            rig.control.leases.follow((await rig.control.observer.inventory()).partitions)
        await heard()
    assert [one.kind for one in told] == ["resized"]
    await rig.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_resize_whose_answer_was_lost_is_told_at_the_next_look(
    store: Store, start_process: Start, kind: str
) -> None:
    rig = await leased(store, start_process, kind)
    async with watched(rig) as told:
        rig.store_plan(cut_at(96, kind))
        rig.effects.arm(1, "fails after")
        await rig.settle()
        assert rig.effects.struck
        await rig.control.tick()
        await heard()
    assert [one.lease and one.lease.sm_count for one in told if one.kind == "resized"][:1] == [36]
    check_size(rig)
    await rig.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_death_at_any_effect_the_lease_has_its_partitions_size(
    store: Store, start_process: Start, kind: str
) -> None:
    deaths = 0
    for at in range(1, _MOST):
        rig = await leased(store, start_process, kind)
        rig.store_plan(cut_at(96, kind))
        rig.effects.arm(at, DEATH)
        dying = rig.effects
        await rig.settle()
        dying.disarm()
        await rig.control.tick()
        check_size(rig)
        rig.check()
        await rig.close()
        if not dying.struck:
            break
        deaths += 1
    # At least before and after either border's move, and around what is stored of it.
    assert 4 <= deaths < _MOST - 1


async def test_a_border_that_moves_into_the_ran_ends_the_lease_instead(
    store: Store, start_process: Start
) -> None:
    rig = await leased(store, start_process, "green")
    lease = lease_of(rig)
    rig.store_plan({("green.132", 0): "ran"})
    await rig.settle()
    assert rig.split() == {("green.132", 0): "ran"}
    assert rig.control.leases.live() == ()
    assert rig.control.leases.find(lease.id).end_reason == "evicted"
    rig.check()
    await rig.close()


@pytest.mark.parametrize("kind", ["split", "resize"])
async def test_a_step_that_nobody_knows_how_to_take_is_refused(
    store: Store, start_process: Start, kind: str
) -> None:
    rig = await leased(store, start_process, "green")
    there = at_once(rig.node.instances())
    # A resize that does not say what the part becomes is no better.
    odd = Step(kind, rig.uuids[0], Placement(0, 40, "green.40"), there[0].uuid, "ran")
    with pytest.raises(PermanentError, match=f"no way to take the step '{kind}'"):
        await rig.control.executor._do(rig.newest().plan, (odd,))
    assert at_once(rig.node.instances()) == there
    await rig.close()
