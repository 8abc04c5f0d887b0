"""Plans as sagas: noted step by step, undone where they fail, drift seen, GPUs drained."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airan.core.errors import CapacityError, InvalidInputError, NotFoundError
from orchestrator.policy import CalendarEntry, Reservation
from tests.orchestrator.site import POLICY, Site

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.control.start()
    await site.control.tick()
    await site.settle()
    await site.play(0.2)
    yield site
    await site.check_integrity()
    await site.close()


async def roles_of(site: Site) -> dict[object, str]:
    parts = (await site.control.observer.inventory()).partitions
    return {(part.gpu_uuid, part.placement): part.role for part in parts}


def fail_for_ever(site: Site, after: int = 0) -> None:
    """Every driver call fails from the one after the next `after`."""
    first = site.node.faults.calls + 1 + after
    site.node.faults.before = set(range(first, first + 1000))


async def replan(site: Site, ran_share: float) -> None:
    """Asks for another split, and lets the plan fail or not."""
    policy = replace(POLICY, kind="static", ran_share=ran_share)
    await site.control.set_policy(policy, dry_run=False)
    await site.control.apply_newest()


async def test_every_step_is_noted(site: Site) -> None:
    await replan(site, 0.3)
    newest = site.store.newest_plan()
    assert newest is not None
    steps = site.store.plan_steps(newest.plan.generation)
    assert [step.state for step in steps] == ["started", "done"] * (len(steps) // 2)
    assert {step.step.split()[0] for step in steps} >= {"create", "destroy"}


@pytest.mark.parametrize("k", range(1, 4))
async def test_a_plan_that_fails_at_step_k_is_undone(site: Site, k: int) -> None:
    before = await roles_of(site)
    generation = site.store.newest_plan().plan.generation
    fail_for_ever(site, after=k - 1)
    await replan(site, 0.3)
    failed = site.store.plan(generation + 1)
    assert failed is not None
    assert failed.state in ("failed", "undoing")
    site.node.faults.before.clear()
    undo = site.store.newest_plan()
    if undo is not None and undo.plan.undoes:
        await site.control.apply_newest()
        assert site.store.plan(generation + 1).state == "undone"
    assert await roles_of(site) == before
    assert await site.ran_sms() >= 60


async def test_what_gave_the_ran_more_is_not_undone(site: Site) -> None:
    held = await site.ran_sms()
    # The first step gives the AI's partition to the RAN; the others fail.
    fail_for_ever(site, after=0)
    await site.play(0.75, seconds=1.0)
    assert await site.ran_sms() >= held
    site.node.faults.before.clear()
    await site.play(0.75, seconds=60.0)
    assert await site.ran_sms() >= 99


async def test_an_undo_that_fails_too_leaves_it_to_the_next_plan(site: Site) -> None:
    fail_for_ever(site, after=1)
    await replan(site, 0.3)
    await site.control.apply_newest()
    newest = site.store.newest_plan()
    assert newest is not None
    assert newest.state == "failed"
    site.node.faults.before.clear()
    site.clock.advance(60.0)
    await site.play(0.2)
    assert site.store.newest_plan().state == "applied"


async def test_a_driver_call_that_hangs_counts_as_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hung = site.node.create, []

    async def create(*args: object) -> object:
        if not hung:
            hung.append(args)
            await asyncio.Event().wait()
        return await real(*args)

    monkeypatch.setattr(site.node, "create", create)
    await replan(site, 0.3)
    assert site.store.newest_plan().state == "applied"
    errors = [
        step.error for step in site.store.plan_steps(site.store.newest_plan().plan.generation)
    ]
    assert any("more than 2 s to create" in error for error in errors)


# --- drift


async def change_by_hand(site: Site) -> None:
    """Somebody destroys the AI's instance and makes a small one, as nvidia-smi would."""
    parts = (await site.control.observer.inventory()).partitions
    ai = next(part for part in parts if part.role == "ai")
    await site.node.destroy(ai.id)
    await site.node.create(ai.gpu_uuid, "1g.12gb", ai.placement.start)


async def test_drift_is_told_in_words_and_mended(site: Site) -> None:
    before = await roles_of(site)
    await change_by_hand(site)
    await site.control.tick()
    (event,) = [event for event in site.store.events(0, 1000) if event.kind == "plan.drift"]
    assert "4g.48gb at 0 of" in event.message
    assert "(ai) is missing" in event.message
    assert "1g.12gb at 0 of" in event.message
    assert "is in no plan" in event.message
    await site.control.apply_newest()
    assert await roles_of(site) == before


async def test_drift_is_only_told_where_the_policy_says_so(site: Site) -> None:
    await site.control.set_policy(replace(POLICY, drift="report"), dry_run=False)
    await change_by_hand(site)
    for _ in range(4):
        await site.control.tick()
        await site.settle()
    assert site.kinds().count("plan.drift") == 1
    told = (await site.control.status()).drift
    assert any(words.endswith("(ai) is missing") for words in told)
    assert any(words.endswith("is in no plan") for words in told)
    assert (("1g.12gb", "free")) in {
        (place.profile, role) for (_, place), role in (await roles_of(site)).items()
    }
    assert site.control.leases.free() == ()
    parts = await site.node.instances()
    await site.node.destroy(next(one for one in parts if one.placement.profile == "1g.12gb").uuid)
    made = await site.node.create(parts[0].gpu_uuid, "4g.48gb", 0)
    site.store.set_role(made.uuid, "ai")
    await site.control.tick()
    assert site.kinds()[-1] == "plan.drift_ended"
    assert (await site.control.status()).drift == ()


async def test_drift_that_comes_back_is_told_again_and_a_lasting_one_once(site: Site) -> None:
    for _ in range(2):
        await change_by_hand(site)
        for _ in range(3):
            await site.control.reconcile()
        await site.control.apply_newest()
    told = [kind for kind in site.kinds() if kind.startswith("plan.drift")]
    assert told == ["plan.drift", "plan.drift_ended"] * 2


async def test_a_foreign_instance_is_never_the_ais_where_drift_is_left_as_it_is(
    site: Site,
) -> None:
    await site.control.set_policy(replace(POLICY, drift="report"), dry_run=False)
    parts = (await site.control.observer.inventory()).partitions
    ai = next(part for part in parts if part.role == "ai")
    await site.node.destroy(ai.id)
    # Just what the plan had there, but made by somebody else.
    again = await site.node.create(ai.gpu_uuid, ai.placement.profile, ai.placement.start)
    await site.play(0.2)
    assert site.store.roles().get(again.uuid, "free") == "free"
    assert site.control.leases.free() == ()


async def test_what_the_ran_has_lost_is_mended_whatever_the_policy(site: Site) -> None:
    before = await roles_of(site)
    await site.control.set_policy(replace(POLICY, drift="report"), dry_run=False)
    (gpu, *_) = await site.node.gpus()
    site.node.heal(gpu.uuid)
    await site.control.tick()
    (event,) = [event for event in site.store.events(0, 1000) if event.kind == "plan.drift"]
    assert "is mended" in event.message
    await site.control.apply_newest()
    assert await roles_of(site) == before


async def test_foreign_instances_as_good_as_the_plans_own_are_not_taken_up(site: Site) -> None:
    # Of what the RAN leaves the AI may have one slice, which may be any.
    policy = replace(POLICY, drift="report", max_ai_share=0.13)
    await site.control.set_policy(policy, dry_run=False)
    await site.play(0.2)
    generation = site.store.newest_plan().plan.generation
    before = await roles_of(site)
    assert sorted(before.values()) == ["ai", "free", "ran"]
    for one in await site.node.instances():
        if before[one.gpu_uuid, one.placement] != "ran":
            await site.node.destroy(one.uuid)
    for start in (4, 5, 6):
        await site.node.create(one.gpu_uuid, "1g.12gb", start)
    await site.play(0.2)
    assert site.store.newest_plan().plan.generation == generation
    assert site.control.leases.free() == ()


async def test_drift_is_looked_for_also_while_no_plan_may_be_made(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.control.options = replace(site.control.options, interval_s=3600.0, reconcile_s=0.01)
    await site.control.start()
    await site.play(0.2)
    site.control.leases.block("a slot alarm")
    # Replaced by one as large: an alarm takes room that is left without looking at the drift.
    parts = (await site.control.observer.inventory()).partitions
    ai = next(part for part in parts if part.role == "ai")
    await site.node.destroy(ai.id)
    await site.node.create(ai.gpu_uuid, ai.placement.profile, ai.placement.start)
    work = asyncio.create_task(site.control.run())
    async with asyncio.timeout(10.0):
        async for event in site.control.log.watch(0):
            if event.kind == "plan.drift_ended":
                break
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await site.check_integrity()
    await site.close()


# --- maintenance, calendar, dry run


async def test_a_drained_gpu_is_emptied_and_comes_back(tmp_path: Path) -> None:
    site = Site(tmp_path, n_gpus=2)
    await site.control.start()
    await site.control.tick()
    await site.settle()
    await site.play(0.2)
    ran = {gpu for (gpu, _), role in (await roles_of(site)).items() if role == "ran"}
    (first,) = ran
    await site.control.set_maintenance(first, "new fan", on=True)
    await site.settle()
    await site.play(0.2)
    assert first not in {gpu for gpu, _ in await roles_of(site)}
    assert await site.ran_sms() >= 60
    await site.control.set_maintenance(first, "", on=False)
    await site.settle()
    await site.play(0.2)
    assert first in {gpu for gpu, _ in await roles_of(site)}
    assert {"gpu.maintenance", "gpu.maintenance_ended"} <= set(site.kinds())
    with pytest.raises(NotFoundError, match="GPU-none"):
        await site.control.set_maintenance("GPU-none", "x", on=True)
    with pytest.raises(InvalidInputError, match="reason"):
        await site.control.set_maintenance(first, "", on=True)
    await site.close()


async def test_the_calendar_takes_effect_before_its_entry_starts(site: Site) -> None:
    now = datetime.fromtimestamp(site.clock.now_s(), UTC)
    soon = datetime.fromtimestamp((now.timestamp() // 60 + 2) * 60, UTC)
    calendar = (
        CalendarEntry((), now.strftime("%H:00"), 0.3),
        CalendarEntry((), soon.strftime("%H:%M"), 1.0),
    )
    policy = replace(POLICY, kind="time_of_day", calendar=calendar)
    await site.control.set_policy(policy, dry_run=False)
    await site.settle()
    assert await site.ran_sms() == 32
    site.clock.advance(soon.timestamp() - site.clock.now_s() - 0.5)
    await site.report(0.2)
    await site.control.tick()
    await site.settle()
    assert await site.ran_sms() >= 124


async def test_a_dry_run_tells_what_would_be_lost(site: Site, start_process: Start) -> None:
    child = start_process()
    await site.control.leases.acquire("engine", child.pid, 0, 50)
    generation = site.store.newest_plan().plan.generation
    policy = replace(POLICY, kind="static", ran_share=1.0)
    change = await site.control.set_policy(policy, dry_run=True)
    assert change.loss.leases_revoked == 1
    assert change.loss.ai_sms_lost == 64
    assert change.loss.ran_shortfall_sms == 0
    assert change.loss.pause_s >= 0.05
    assert any(move.startswith("revoke") for move in change.moves)
    assert site.store.newest_plan().plan.generation == generation
    assert site.control.policy == POLICY
    assert os.getpid() != child.pid


async def test_what_a_tenant_has_reserved_is_kept_for_it(site: Site, start_process: Start) -> None:
    reserved = replace(POLICY, reservations=(Reservation("acme", 32),))
    await site.control.set_policy(reserved, dry_run=False)
    leases = site.control.leases
    with pytest.raises(CapacityError, match="for this tenant"):
        await leases.acquire("other", start_process().pid, 0, 50, "other")
    mine = await leases.acquire("mine", start_process().pid, 0, 50, "acme")
    assert (mine.tenant, mine.sm_count) == ("acme", 64)
    await leases.release(mine.id)
    await site.control.set_policy(POLICY, dry_run=False)
    assert (await leases.acquire("other", start_process().pid, 0, 50, "other")).sm_count == 64
