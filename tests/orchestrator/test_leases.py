"""The life of a lease, with real processes as holders."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from airan.core.clock import Clock, ManualClock, SystemClock
from airan.core.errors import CapacityError, InvalidInputError, NotFoundError, OutOfRangeError
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.hub import EventLog, History
from orchestrator.leases import LeaseManager, LeaseSettings
from orchestrator.plan import Partition
from orchestrator.store import Store
from orchestrator.views import Lease, LeaseEvent

Start = Callable[[], "subprocess.Popen[bytes]"]
NEVER = LeaseSettings(watch_grace_s=60.0, restart_grace_s=60.0)
NOTICE_MS = 80


@dataclass
class Bench:
    """A node with a 4g and a 3g instance on offer, and the leases over them."""

    path: Path
    node: SimulatedNode
    store: Store
    log: EventLog
    leases: LeaseManager
    parts: tuple[Partition, ...] = ()

    def restarted(self, settings: LeaseSettings = NEVER) -> LeaseManager:
        """The leases as a new control process finds them."""
        again = LeaseManager(self.store, self.node, self.log, SystemClock(), settings)
        again.offer(self.parts)
        return again

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(0, 100)]


async def bench_in(
    path: Path, settings: LeaseSettings = NEVER, clock: Clock | None = None
) -> Bench:
    node = SimulatedNode(path / "node.json", "GH200-96GB", delays_s=(0.0, 0.0))
    store, clock = Store(path / "control.sqlite"), clock or SystemClock()
    log = EventLog(store, clock)
    bench = Bench(path, node, store, log, LeaseManager(store, node, log, clock, settings))
    gpu = (await node.gpus())[0].uuid
    made = [await node.create(gpu, "4g.48gb", 0), await node.create(gpu, "3g.48gb", 4)]
    bench.parts = tuple(
        Partition(one.uuid, gpu, one.placement, one.sm_count, one.memory_mib, "ai") for one in made
    )
    bench.leases.offer(bench.parts)
    return bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = await bench_in(tmp_path)
    yield bench
    await bench.leases.close()
    # Whatever happened: no partition is lent twice, and no ended lease holds a process.
    live = bench.leases.live()
    assert len({lease.partition_id for lease in live}) == len(live)
    leased = {lease.partition_id for lease in live}
    for instance in await bench.node.instances():
        assert instance.uuid in leased or not instance.pids


async def grant(bench: Bench, holder: str, pid: int, min_sm: int = 0) -> Lease:
    return await bench.leases.acquire(holder, pid, min_sm, NOTICE_MS)


async def test_the_largest_partition_is_lent_first(bench: Bench, start_process: Start) -> None:
    first = await grant(bench, "a", start_process().pid)
    second = await grant(bench, "b", start_process().pid)
    assert (first.profile, second.profile) == ("4g.48gb", "3g.48gb")
    with pytest.raises(CapacityError, match="watch the leases"):
        await grant(bench, "c", start_process().pid)


async def test_a_partition_too_small_is_not_lent(bench: Bench, start_process: Start) -> None:
    with pytest.raises(CapacityError, match="65 SMs"):
        await grant(bench, "a", start_process().pid, min_sm=65)


async def test_the_lent_partition_is_in_use_by_the_holder(
    bench: Bench, start_process: Start
) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    used = {one.uuid: one.pids for one in await bench.node.instances()}
    assert used[lease.partition_id] == (child.pid,)


async def test_the_same_holder_gets_its_lease_again(bench: Bench, start_process: Start) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    assert await grant(bench, "a", child.pid) == lease
    with pytest.raises(CapacityError, match=f"process {child.pid}"):
        await grant(bench, "a", start_process().pid)


async def test_a_holder_that_was_killed_and_came_back_gets_a_new_lease(
    bench: Bench, start_process: Start
) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    child.kill()
    child.wait()
    again = await grant(bench, "a", start_process().pid)
    assert again.id != lease.id
    assert bench.leases.find(lease.id).end_reason == "holder_lost"


async def test_a_holder_must_have_a_name_and_a_live_process(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="pid"):
        await grant(bench, "a", 2**30)
    with pytest.raises(InvalidInputError, match="holder"):
        await grant(bench, "", 1)


async def test_releasing_ends_the_lease_once(bench: Bench, start_process: Start) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    ended = await bench.leases.release(lease.id)
    assert (ended.state, ended.end_reason) == ("ended", "released")
    assert await bench.leases.release(lease.id) == ended
    assert child.poll() is None
    with pytest.raises(NotFoundError, match="lease-none"):
        await bench.leases.release("lease-none")


async def test_a_holder_that_releases_in_time_lives_on(bench: Bench, start_process: Start) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    reclaiming = asyncio.create_task(bench.leases.reclaim(lease.partition_id, "the RAN needs it"))
    await asyncio.sleep(0)
    assert bench.leases.find(lease.id).state == "revoking"
    assert (await bench.leases.release(lease.id)).end_reason == "revoked"
    await reclaiming
    assert child.poll() is None
    assert bench.kinds() == ["lease.granted", "lease.revoked", "lease.released"]


async def test_a_holder_that_does_not_release_is_evicted_at_the_deadline(
    bench: Bench, start_process: Start
) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    await bench.leases.reclaim(lease.partition_id, "the RAN needs it")
    ended = bench.leases.find(lease.id)
    assert ended.end_reason == "evicted"
    assert ended.ended_s - ended.revoked_s >= NOTICE_MS / 1000.0
    assert child.wait(timeout=5) == -9
    await bench.node.destroy(lease.partition_id)
    assert bench.kinds()[-1] == "lease.evicted"


async def test_a_dead_holder_loses_its_lease(bench: Bench, start_process: Start) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    await bench.leases.check_holders()
    assert bench.leases.find(lease.id).state == "active"
    child.kill()
    child.wait()
    await bench.leases.check_holders()
    assert bench.leases.find(lease.id).end_reason == "holder_lost"


async def test_a_holder_without_a_watch_loses_its_lease_after_the_grace(
    tmp_path: Path, start_process: Start
) -> None:
    clock = ManualClock(1000.0)
    bench = await bench_in(tmp_path, LeaseSettings(watch_grace_s=2.0), clock)
    child = start_process()
    watch = bench.leases.watch("a")
    await anext(watch)
    lease = await grant(bench, "a", child.pid)
    clock.advance(5.0)
    await bench.leases.check_holders()
    assert bench.leases.find(lease.id).state == "active"
    await watch.aclose()
    clock.advance(1.9)
    await bench.leases.check_holders()
    assert bench.leases.find(lease.id).state == "active"
    clock.advance(0.2)
    await bench.leases.check_holders()
    assert bench.leases.find(lease.id).end_reason == "holder_lost"
    # It may still be computing on a partition that is no longer its own.
    assert child.wait(timeout=5) == -9


async def test_leases_outlive_a_restart_of_the_control_plane(
    bench: Bench, start_process: Start
) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    again = bench.restarted()
    again.start()
    await again.check_holders()
    events = again.watch("a")
    assert (await anext(events)).lease == lease
    assert await again.acquire("a", child.pid, 0, NOTICE_MS) == lease
    await events.aclose()
    await again.close()


async def test_a_revocation_outlives_a_restart_too(bench: Bench, start_process: Start) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    bench.leases.block("slot alarm")
    await bench.leases.close()
    again = bench.restarted()
    again.start()
    await again.reclaim(lease.partition_id, "the RAN needs it")
    assert again.find(lease.id).end_reason == "evicted"
    assert child.wait(timeout=5) == -9
    await again.close()
    bench.leases = again


async def test_while_blocked_everything_is_revoked_and_nothing_lent(
    bench: Bench, start_process: Start
) -> None:
    child = start_process()
    lease = await grant(bench, "a", child.pid)
    bench.leases.block("slot alarm: 1 slot late")
    assert bench.leases.find(lease.id).state == "revoking"
    await bench.leases.release(lease.id)
    with pytest.raises(CapacityError, match="1 slot late"):
        await grant(bench, "a", child.pid)
    assert bench.leases.free() == ()
    bench.leases.unblock()
    assert (await grant(bench, "a", child.pid)).profile == "4g.48gb"


async def test_a_watch_tells_the_whole_life_in_order(bench: Bench, start_process: Start) -> None:
    seen: list[LeaseEvent] = []

    async def watch() -> None:
        async for event in bench.leases.watch("a"):
            seen.append(event)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    lease = await grant(bench, "a", start_process().pid)
    await grant(bench, "b", start_process().pid)
    bench.leases.block("alarm")
    await bench.leases.release(lease.id)
    bench.leases.unblock()
    async with asyncio.timeout(10):
        while len(seen) < 5:
            await asyncio.sleep(0)
    # Nothing more comes after that.
    await asyncio.sleep(0.01)
    watching.cancel()
    told = [(event.kind, event.free_ai_partitions) for event in seen]
    assert told == [("snapshot", 2), ("granted", 1), ("revoked", 0), ("ended", 0), ("offered", 1)]
    revoked = seen[2]
    assert revoked.lease is not None
    assert revoked.deadline_s == pytest.approx(revoked.lease.revoked_s + NOTICE_MS / 1000.0)


def test_history_is_exact_or_refused() -> None:
    history: History[int] = History(now_s=1.0, limit=3)
    start = history.newest
    assert history.after(start) == []
    numbers = [history.add(lambda seq: seq) for _ in range(3)]
    assert numbers == [start + 1, start + 2, start + 3]
    assert history.after(start) == numbers
    assert history.after(numbers[1]) == numbers[2:]
    history.add(lambda seq: seq)
    assert history.after(numbers[0]) == [*numbers[1:], start + 4]
    for unknown in (start, 7, start + 5):
        with pytest.raises(OutOfRangeError):
            history.after(unknown)


async def test_numbers_from_before_a_restart_are_not_taken_for_new_ones(
    bench: Bench, start_process: Start
) -> None:
    await grant(bench, "a", start_process().pid)
    last = await anext(bench.leases.watch("", 0))
    again = bench.restarted()
    with pytest.raises(OutOfRangeError, match="watch anew"):
        await anext(again.watch("", last.seq))
    await again.close()


async def test_an_operators_revocation_needs_a_reason_and_a_lease(
    bench: Bench, start_process: Start
) -> None:
    lease = await grant(bench, "a", start_process().pid)
    with pytest.raises(InvalidInputError, match="reason"):
        bench.leases.revoke(lease.id, "")
    with pytest.raises(NotFoundError):
        bench.leases.revoke("lease-none", "why not")
    assert bench.leases.revoke(lease.id, "an operator's wish").state == "revoking"
    assert bench.leases.revoke(lease.id, "twice").state == "revoking"
    await bench.leases.release(lease.id)
    assert bench.leases.revoke(lease.id, "too late").end_reason == "revoked"


async def test_a_partition_lost_while_it_is_lent_leaves_no_lease_behind(
    bench: Bench, start_process: Start
) -> None:
    for part in bench.parts:
        await bench.node.destroy(part.id)
    with pytest.raises(CapacityError, match="was lost"):
        await grant(bench, "a", start_process().pid)
    assert bench.leases.live() == ()


async def test_where_the_largest_partition_has_just_gone_the_next_is_lent(
    bench: Bench, start_process: Start
) -> None:
    gone, left = bench.parts
    await bench.node.destroy(gone.id)
    lease = await grant(bench, "a", start_process().pid)
    assert lease.partition_id == left.id
    assert bench.leases.live() == (lease,)
