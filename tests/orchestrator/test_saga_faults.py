"""Every effect of a change failed, hung or died at: the RAN keeps its floor, no lease leaks, and
the plan ends applied, or undone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.base import GpuInstance
from orchestrator.mig import MigGeometry
from orchestrator.plan import Gpu, Inventory, Partition, Plan, Target
from orchestrator.reconcile import undoing
from orchestrator.store import Store, StoredPlan
from tests.orchestrator.faulty import DEATH, FLOOR_SMS, GPU, Rig, Split, at_once

Start = Callable[[], "subprocess.Popen[bytes]"]

NIGHT: Split = {("3g.48gb", 4): "ran", ("4g.48gb", 0): "ai"}
PEAK: Split = {("4g.48gb", 0): "ran", ("3g.48gb", 4): "ran"}
SWAPPED: Split = {("4g.48gb", 0): "ran", ("3g.48gb", 4): "ai"}
FINE: Split = {
    ("3g.48gb", 4): "ran",
    ("2g.24gb", 0): "ran",
    ("1g.12gb", 2): "ai",
    ("1g.12gb", 3): "ai",
}
CUT: Split = {("3g.48gb", 4): "ran", ("2g.24gb", 0): "ai", ("2g.24gb", 2): "ai"}
WHOLE: Split = {("7g.96gb", 0): "ai"}
GREEN_NIGHT: Split = {("green.40", 0): "ran", ("green.92", 40): "ai"}
GREEN_PEAK: Split = {("green.96", 0): "ran", ("green.36", 96): "ai"}
GREEN_ALARM: Split = {("green.96", 0): "ran", ("green.36", 96): "ran"}
HALVES: Split = {("4g.48gb", 0): "ai", ("3g.48gb", 4): "ai"}
CHANGES = {
    "the peak comes": (NIGHT, PEAK),
    "the sides swap": (NIGHT, SWAPPED),
    "the AI is cut finer": (NIGHT, CUT),
    "both are cut finer": (SWAPPED, FINE),
    "all is joined again": (FINE, NIGHT),
    "the border moves to the AI": (GREEN_PEAK, GREEN_NIGHT),
    "the border moves to the RAN": (GREEN_NIGHT, GREEN_PEAK),
    "an alarm is over": (GREEN_ALARM, {("green.104", 0): "ran", ("green.28", 104): "ai"}),
}
_MOST = 80


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "control.sqlite")
    yield store
    store.close()


async def prepared(store: Store, start: Start, change: str) -> Rig:
    """A site with the change stored, and a lease on what the AI has."""
    before, after = CHANGES[change]
    rig = Rig(store, kind="green" if before in (GREEN_NIGHT, GREEN_PEAK, GREEN_ALARM) else "mig")
    await rig.begin([before], start().pid)
    rig.store_plan(after)
    return rig


def numbers() -> Iterator[int]:
    """Effects to strike at; whoever finds that nothing was struck any more stops."""
    yield from range(1, _MOST)
    pytest.fail("there are more effects than were tried")


def struck(rig: Rig, at: int) -> bool:
    """Whether the fault came. A restart, after a death, forgets what was armed."""
    over = rig.effects.at == at and not rig.effects.struck
    assert not over or at > 2, "the fault must have struck at several effects"
    return not over


@pytest.mark.parametrize(
    ("change", "what"),
    [(change, what) for change in CHANGES for what in ("fails before", "fails after")]
    + [("both are cut finer", what) for what in ("hangs before", "hangs after", DEATH)]
    + [("the sides swap", DEATH), ("the border moves to the RAN", DEATH)],
)
async def test_a_fault_at_any_effect_is_made_good(
    store: Store, start_process: Start, change: str, what: str
) -> None:
    for at in numbers():
        rig = await prepared(store, start_process, change)
        rig.effects.arm(at, what)
        await rig.settle()
        there = at_once(rig.node.instances())
        assert rig.newest().state == "applied"
        assert rig.split() == CHANGES[change][1]
        rig.check()
        came = struck(rig, at)
        rig.effects.disarm()
        await rig.control.executor.apply(rig.newest().plan)
        assert at_once(rig.node.instances()) == there, "applying again changes nothing"
        await rig.close()
        if not came:
            return


async def failed_at(store: Store, start: Start, change: str, at: int, what: str) -> Rig:
    """A site whose change could not be completed, from the driver's call `at` on; the driver is
    well again."""
    rig = await prepared(store, start, change)
    rig.effects.arm(at, what, lasting=True)
    await rig.control.apply_newest()
    return rig


@pytest.mark.parametrize("what", ["fails before", "fails after", "refuses"])
@pytest.mark.parametrize(
    "change",
    [
        "the sides swap",
        "the AI is cut finer",
        "both are cut finer",
        "the border moves to the AI",
        "the border moves to the RAN",
    ],
)
async def test_a_plan_that_cannot_be_completed_is_undone_from_anywhere(
    store: Store, start_process: Start, change: str, what: str
) -> None:
    outcomes = set()
    for at in numbers():
        rig = await failed_at(store, start_process, change, at, what)
        came, number = struck(rig, at), 2
        held = rig.ran_sms()
        rig.effects.disarm()
        await rig.settle()
        state = rig.store.plan(number).state
        outcomes.add(state)
        assert rig.ran_sms() >= held
        if state == "undone":
            assert rig.split() == CHANGES[change][0]
            assert rig.newest().state == "applied"
        elif state == "failed":
            # Nothing was done yet, or the RAN would lose what it has gained.
            assert rig.ran_sms() == held
        else:
            assert state == "applied"
        rig.check()
        await rig.close()
        if not came:
            if change.startswith("the border") and what == "fails after":
                # The next look finds each of its two steps done.
                assert outcomes == {"applied"}
            else:
                assert "undone" in outcomes or change == "the sides swap"
            return


async def test_an_undo_is_finished_after_a_death_at_any_effect(
    store: Store, start_process: Start
) -> None:
    change = "the AI is cut finer"
    for at in numbers():
        rig = await failed_at(store, start_process, change, 3, "refuses")
        assert rig.store.plan(2).state == "undoing"
        rig.effects.arm(at, DEATH)
        await rig.settle()
        assert rig.store.plan(2).state == "undone"
        assert rig.newest().plan.undoes == 2
        assert rig.split() == CHANGES[change][0]
        rig.check()
        came = struck(rig, at)
        await rig.close()
        if not came:
            return


async def test_an_undo_that_fails_too_leaves_the_plan_failed(
    store: Store, start_process: Start
) -> None:
    rig = await failed_at(store, start_process, "the AI is cut finer", 3, "refuses")
    assert rig.store.plan(2).state == "undoing"
    await rig.settle()
    assert [rig.store.plan(number).state for number in (2, 3)] == ["failed", "failed"]
    rig.effects.disarm()
    rig.clock.advance(60.0)
    await rig.report(0.1)
    await rig.control.tick()
    await rig.settle()
    assert rig.newest().state == "applied"
    assert rig.newest().plan.generation == 4
    rig.check()
    await rig.close()


async def test_a_driver_that_refuses_for_good_is_asked_once(
    store: Store, start_process: Start
) -> None:
    rig = await failed_at(store, start_process, "the AI is cut finer", 3, "refuses")
    failed = [step for step in rig.store.plan_steps(2) if step.state == "failed"]
    assert [step.error for step in failed] == ["the driver refuses for good (injected)"]
    await rig.close()


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_gpu_lost_in_the_middle_undoes_the_rest_and_the_ran_is_planned_anew(
    store: Store, start_process: Start, lost: int
) -> None:
    for at in numbers():
        rig = Rig(store, n_gpus=2)
        await rig.begin([NIGHT, WHOLE], start_process().pid, start_process().pid)
        rig.store_plan(CUT, HALVES)
        rig.effects.arm(at, "loses the GPU")
        rig.effects.lost_gpu = rig.uuids[lost]
        await rig.control.apply_newest()
        came = struck(rig, at)
        rig.effects.disarm()
        # The RAN has lost what was on that GPU; what it has left it keeps.
        rig.needed_sms = min(FLOOR_SMS, rig.ran_sms())
        if came:
            assert rig.store.plan(2).state in ("failed", "undoing")
        await rig.settle()
        if came and rig.newest().plan.undoes:
            assert rig.store.plan(2).state == "undone"
            assert rig.split(1 - lost) == [NIGHT, WHOLE][1 - lost]
        await rig.report(0.1)
        await rig.control.tick()
        await rig.settle()
        assert rig.newest().state == "applied"
        assert rig.newest().plan.gpus <= {gpu.uuid for gpu in (await there(rig)).gpus}
        assert rig.ran_sms() >= max(FLOOR_SMS, rig.needed_sms)
        rig.check()
        await rig.close()
        if not came:
            return


async def test_a_plan_is_not_applied_where_the_ran_gets_less_than_it_promises(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(store)
    real = rig.node.instances

    async def instances() -> tuple[GpuInstance, ...]:
        return tuple(replace(one, sm_count=one.sm_count - 2) for one in await real())

    monkeypatch.setattr(rig.node, "instances", instances)
    rig.store_plan(NIGHT)
    await rig.control.apply_newest()
    assert rig.newest().state == "failed"
    assert "58 SMs, not the 60 of plan 1" in rig.store.events(0, 100)[-1].message
    await rig.close()


def test_an_undo_on_which_the_ran_would_have_less_meanwhile_is_not_made() -> None:
    geometry = MigGeometry.load(GPU)
    gpu = Gpu("GPU-1", geometry)

    def target(name: str, start: int) -> Target:
        profile = geometry.profile(name)
        place = geometry.placement(name, start)
        return Target(gpu.uuid, place, "ran", profile.sm_count, profile.memory_mib)

    def at(start: int, one: Target) -> Partition:
        return Partition(f"MIG-{start}", gpu.uuid, one.placement, one.sm_count, 0, "ran")

    parent = Plan(1, 0, (target("4g.48gb", 0), target("3g.48gb", 4)), "", 0.9, 0.0)
    failed = Plan(2, 1, (target("4g.48gb", 0), target("2g.24gb", 4)), "", 0.7, 0.0)
    there = tuple(at(start, one) for start, one in enumerate(failed.targets))
    stored = [StoredPlan(failed, "failed", 0.0), StoredPlan(parent, "applied", 0.0)]
    # To make room for the larger one the smaller one has to go first.
    assert undoing(stored[0], stored[1], Inventory((gpu,), there, ran_in_use=True)) is None
    undo = undoing(stored[0], stored[1], Inventory((gpu,), there))
    assert undo is not None
    assert (undo.undoes, undo.targets) == (2, parent.targets)


async def there(rig: Rig) -> Inventory:
    return await rig.control.observer.inventory()


async def test_a_lease_ends_with_its_partition(store: Store, start_process: Start) -> None:
    rig = Rig(store)
    await rig.begin([NIGHT], start_process().pid)
    (lease,) = rig.control.leases.live()
    rig.node.heal(rig.uuids[0])
    await rig.control.tick()
    assert rig.control.leases.live() == ()
    assert rig.control.leases.find(lease.id).end_reason == "partition_lost"
    await rig.close()
