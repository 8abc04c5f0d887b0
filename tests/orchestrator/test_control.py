"""The control plane as a whole, without its server: reports in, plans and leases out."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from airan.core.errors import CapacityError, InvalidInputError, NotFoundError, UnavailableError
from orchestrator.plan import role_sms
from orchestrator.policy import Policy
from orchestrator.views import SlotReport
from tests.orchestrator.site import POLICY, STARTED_S, Site

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.control.start()
    await site.control.tick()
    await site.settle()
    yield site
    await site.check_integrity()
    await site.close()


async def test_before_the_first_report_the_ran_has_everything_that_can_be_shared_later(
    site: Site,
) -> None:
    assert await site.ran_sms() == 124
    status = await site.control.status()
    assert status.simulated
    assert status.demand.source.startswith("assumed")
    assert status.leases == ()


async def test_a_quiet_ran_lends_and_a_busy_one_takes_back(
    site: Site, start_process: Start
) -> None:
    await site.play(0.15)
    child = start_process()
    lease = await site.control.leases.acquire("engine", child.pid, 0, 50)
    assert lease.profile == "4g.48gb"
    await site.play(0.8)
    assert await site.ran_sms() == 124
    assert site.control.leases.find(lease.id).end_reason == "evicted"
    assert child.wait(timeout=5) == -9
    await site.play(0.15, seconds=40)
    assert len(site.control.leases.free()) == 1
    assert site.kinds().count("plan.failed") == 0


async def test_the_ran_holds_its_demand_all_day_and_no_cell_is_moved_off_the_gpu(
    site: Site,
) -> None:
    for demand in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.7, 0.45, 0.3, 0.1):
        await site.play(demand, seconds=4)
        assert await site.ran_sms() >= demand * 132
        on_ran = [
            part.pids
            for gpu in (await site.control.status()).gpus
            for part in gpu.partitions
            if part.role == "ran"
        ]
        assert on_ran
        assert all(pids == (os.getpid(),) for pids in on_ran)


async def test_a_steady_demand_is_planned_once(site: Site) -> None:
    await site.play(0.3, seconds=20)
    first = site.kinds().count("plan.stored")
    await site.play(0.3, seconds=20)
    assert site.kinds().count("plan.stored") == first
    assert "control.fault" not in site.kinds()


async def test_when_reports_stop_the_ran_gets_the_safe_share(site: Site) -> None:
    await site.play(0.15)
    held = await site.ran_sms()
    site.clock.advance(5.1)
    await site.control.tick()
    await site.settle()
    status = await site.control.status()
    assert status.demand.source.startswith("assumed")
    assert await site.ran_sms() >= 0.6 * 132 > held


async def test_an_alarm_takes_the_leases_at_once_and_the_hold_ends(
    site: Site, start_process: Start
) -> None:
    await site.play(0.15)
    child = start_process()
    leases = site.control.leases
    lease = await leases.acquire("engine", child.pid, 0, 5000)
    site.clock.advance(0.1)
    await site.report(0.15, slots_late=2, alarm=True)
    assert leases.find(lease.id).state == "revoking"
    with pytest.raises(CapacityError, match="2 of 50 slots late"):
        await leases.acquire("other", start_process().pid, 0, 50)
    await leases.release(lease.id)
    running = asyncio.create_task(site.control.run())
    await asyncio.sleep(0.05)
    assert leases.free() == ()
    site.clock.advance(2.0)
    while not leases.free():
        await asyncio.sleep(0.01)
    running.cancel()
    assert child.poll() is None
    assert [kind for kind in site.kinds() if kind.startswith("slot.")] == [
        "slot.alarm",
        "slot.alarm_ended",
    ]


async def test_a_dry_run_shows_the_moves_and_changes_nothing(site: Site) -> None:
    await site.play(0.15)
    before = (await site.control.status()).gpus
    plans = len(site.store.plans(100))
    change = await site.control.set_policy(Policy("static", ran_share=0.6), dry_run=True)
    assert change.plan.state == "dry-run"
    assert [part.profile for part in change.plan.partitions if part.role == "ran"] == ["4g.48gb"]
    assert change.moves == (
        "give 4g.48gb at slice 0 to ran",
        "hand the RAN's cells over from 3g.48gb at slice 4, which becomes ai",
    )
    assert (await site.control.status()).gpus == before
    assert site.control.policy == POLICY
    assert len(site.store.plans(100)) == plans


async def test_a_policy_is_planned_by_at_once_and_outlives_a_restart(
    site: Site, tmp_path: Path
) -> None:
    await site.play(0.15)
    wanted = Policy("static", ran_share=0.6, notice_ms=50)
    change = await site.control.set_policy(wanted, dry_run=False)
    assert change.plan.state == "stored"
    await site.settle()
    assert (await site.control.status()).plan.generation == change.plan.generation
    assert await site.ran_sms() == 64
    again = Site(tmp_path)
    assert again.control.policy == wanted
    await again.close()


async def test_a_restart_finds_everything_as_it_was(
    site: Site, tmp_path: Path, start_process: Start
) -> None:
    await site.play(0.15)
    child = start_process()
    lease = await site.control.leases.acquire("engine", child.pid, 0, 50)
    before = await site.control.status()
    again = Site(tmp_path)
    again.clock.advance(site.clock.now_s() - STARTED_S + 1.0)
    await again.control.start()
    await again.control.tick()
    await again.settle()
    after = await again.control.status()
    assert [gpu.partitions for gpu in after.gpus] == [gpu.partitions for gpu in before.gpus]
    assert after.leases == (lease,)
    assert after.plan == before.plan
    assert after.slots.slots == before.slots.slots > 0
    assert after.utilisation.ran_demand_share > 0
    await again.close()


async def test_a_failed_plan_is_tried_again_after_a_while(site: Site) -> None:
    await site.play(0.15)
    site.node.faults.before = set(range(site.node.faults.calls + 1, site.node.faults.calls + 5))
    # Six of seven slices for the RAN: that takes driver calls, not only other roles.
    await site.control.set_policy(Policy("static", ran_share=0.85), dry_run=False)
    await site.settle()
    assert "plan.failed" in site.kinds()
    assert await site.ran_sms() >= 60
    await site.play(0.15, seconds=5)
    newest = site.store.newest_plan()
    assert newest is not None
    assert newest.state == "applied"
    assert await site.ran_sms() == 96


async def test_drift_is_seen_and_mended(site: Site) -> None:
    await site.play(0.15)
    (spare,) = [one for one in await site.node.instances() if one.placement.profile == "4g.48gb"]
    await site.node.destroy(spare.uuid)
    await site.control.tick()
    assert "plan.drift" in site.kinds()
    await site.control.apply_newest()
    assert "4g.48gb" in [one.placement.profile for one in await site.node.instances()]


async def test_a_lost_gpu_is_planned_around(tmp_path: Path) -> None:
    site = Site(tmp_path, n_gpus=2)
    await site.control.start()
    await site.play(0.3)
    first, second = [gpu.uuid for gpu in await site.node.gpus()]
    site.node.inject_xid(first, 79)
    await site.play(0.3)
    parts = (await site.control.observer.inventory()).partitions
    assert {part.gpu_uuid for part in parts} == {second}
    assert role_sms(parts, "ran") >= 0.3 * 132
    site.node.inject_xid(second, 79)
    await site.control.tick()
    with pytest.raises(UnavailableError, match="no GPU"):
        await site.control.set_policy(POLICY, dry_run=True)
    await site.close()


async def test_use_is_counted_by_share_and_time(site: Site, start_process: Start) -> None:
    await site.play(0.2, seconds=10)
    lease = await site.control.leases.acquire("engine", start_process().pid, 0, 50)
    await site.play(0.2, seconds=10)
    site.control.report_use(lease.id, 10.0, 5.0)
    await site.control.tick()
    use = (await site.control.status()).utilisation
    assert use.ai_busy_share == pytest.approx(64 / 132 * 5.0 / 20.0, rel=0.05)
    assert use.ran_demand_share == pytest.approx(0.2, rel=0.15)
    assert use.total_share == pytest.approx(use.ran_demand_share + use.ai_busy_share)
    with pytest.raises(InvalidInputError, match="busy_s"):
        site.control.report_use(lease.id, 1.0, 2.0)
    with pytest.raises(NotFoundError):
        site.control.report_use("lease-none", 1.0, 1.0)


async def test_a_report_sent_twice_counts_once(site: Site) -> None:
    report = SlotReport("cell-1", 5.0, slots=7, demand_share=0.2)
    await site.control.take_report(report)
    await site.control.take_report(report)
    assert site.control.ran.slots().slots == 7


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cell_id", {"cell_id": ""}),
        ("demand_share", {"demand_share": float("nan")}),
        ("slots", {"slots": 1, "slots_late": 2}),
        ("histogram_counts", {"histogram_edges_us": (1.0,), "histogram_counts": (1,)}),
    ],
)
async def test_a_report_that_contradicts_itself_is_refused(
    site: Site, field: str, values: dict[str, object]
) -> None:
    report = replace(SlotReport("cell-1", 5.0, slots=7), **values)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=field):
        await site.control.take_report(report)


async def test_metrics_name_the_unit_and_follow_the_state(site: Site) -> None:
    await site.play(0.15)
    text = generate_latest(site.control.metrics.registry).decode()
    assert "airan_orchestrator_slots_total" in text
    assert 'airan_orchestrator_partition_sms{role="ran"} 60.0' in text
    assert 'airan_orchestrator_partition_sms{role="ai"} 64.0' in text
    assert "airan_orchestrator_plan_seconds_bucket" in text
