"""A site of two hosts: one is lost at load, the RAN goes on on the other, the lost one returns."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from airan.core.errors import CapacityError
from orchestrator.control import ControlPlane
from orchestrator.drivers.pool import PoolDriver
from orchestrator.plan import role_sms
from orchestrator.store import Store
from tests.orchestrator.hosts import LOST_AFTER_S, SETTINGS, Host, until
from tests.orchestrator.site import POLICY, Site

Start = Callable[[], "subprocess.Popen[bytes]"]


class TwoHosts(Site):
    """The RAN's first host is `a`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path / "unused")
        self.store.close()
        self.hosts = {name: Host(name, clock=self.clock) for name in ("a", "b")}
        self.pool = PoolDriver(self.hosts, self.clock, SETTINGS)
        self.store = Store(path / "control.sqlite")
        self.control = ControlPlane(self.store, self.pool, self.clock, POLICY, self.control.options)
        self.pool.tell = self.control.log.record

    async def begin(self, demand: float) -> None:
        await self.pool.meet()
        await self.control.start()
        await self.play(demand)

    async def sms(self, host: str, role: str) -> int:
        gpus = {info.uuid for info in await self.pool.gpus() if info.node == host}
        parts = (await self.control.observer.inventory()).partitions
        return role_sms((part for part in parts if part.gpu_uuid in gpus), role)

    async def loses(self, host: str, demand: float) -> None:
        self.hosts[host].hangs()
        await self.play(demand, seconds=LOST_AFTER_S + 1)
        assert self.pool.lost_nodes == (host,)

    async def gets_back(self, host: str) -> None:
        self.hosts[host].answers()
        await until(lambda: not self.pool.lost_nodes, f"{host} is back")

    async def close(self) -> None:
        await super().close()
        await self.pool.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[TwoHosts]:
    made = TwoHosts(tmp_path)
    yield made
    await made.close()


async def lease_on(site: TwoHosts, host: str, start: Start) -> tuple[str, subprocess.Popen[bytes]]:
    """Leases all there is; returns the lease on that host, and its holder."""
    gpus = {info.uuid for info in await site.pool.gpus() if info.node == host}
    found = None
    for number in range(len(site.control.leases.free())):
        child = start()
        lease = await site.control.leases.acquire(f"engine-{number}", child.pid, 0, 50)
        if lease.gpu_uuid in gpus:
            found = lease.id, child
    assert found, f"nothing was on offer on {host}"
    return found


async def test_the_ran_of_a_lost_host_goes_on_on_the_other(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.25)
    assert await site.sms("a", "ran") > 0
    assert await site.sms("b", "ran") == 0
    await lease_on(site, "b", start_process)
    await site.loses("a", 0.25)
    # Half of the pool is gone: the demand is a share of what is left.
    assert await site.sms("b", "ran") >= 0.25 * 132
    assert await site.ran_sms() == await site.sms("b", "ran")
    assert {"node.lost", "plan.stored", "plan.applied"} <= set(site.kinds())
    (event,) = [one for one in site.store.events(0, 1000) if one.kind == "node.lost"]
    assert (event.severity, "node a is lost" in event.message) == ("error", True)


async def test_the_leases_on_a_lost_host_end_and_those_elsewhere_stay(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.25)
    lost, _ = await lease_on(site, "b", start_process)
    kept = [lease.id for lease in site.control.leases.live() if lease.id != lost]
    await site.loses("b", 0.25)
    ended = site.control.leases.find(lost)
    assert (ended.state, ended.end_reason) == ("ended", "partition_lost")
    assert [lease.id for lease in site.control.leases.live()] == kept


async def test_a_host_of_the_pool_is_shown_lost_with_its_gpus(site: TwoHosts) -> None:
    await site.begin(0.25)
    await site.loses("a", 0.25)
    shown = {gpu.node: (gpu.lost, len(gpu.partitions)) for gpu in await site.control.gpus()}
    assert shown["a"] == (True, 0)
    assert shown["b"][0] is False


async def test_what_is_found_on_a_host_that_comes_back_is_reconciled(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.25)
    await site.loses("a", 0.25)
    stale = await site.hosts["a"].node.instances()
    assert stale, "the RAN's partitions outlive the loss of their host"
    stray = start_process()
    await site.hosts["a"].node.attach(stale[-1].uuid, stray.pid)
    await site.gets_back("a")
    await site.play(0.25, seconds=20)
    assert "node.back" in site.kinds()
    newest = site.store.newest_plan()
    assert newest is not None
    assert newest.state == "applied"
    wanted = {(target.gpu_uuid, target.placement) for target in newest.plan.targets}
    there = {(one.gpu_uuid, one.placement) for one in await site.pool.instances()}
    assert there == wanted
    assert await site.sms("a", "ai") + await site.sms("a", "ran") > 0, "it is in use again"
    roles = site.store.roles()
    assert set(roles) <= {one.uuid for one in await site.pool.instances()}
    stray.wait(timeout=10)


async def test_a_holder_out_of_reach_is_evicted_before_its_partition_is_lent_again(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.25)
    lost, holder = await lease_on(site, "b", start_process)
    partition = site.control.leases.find(lost).partition_id
    # The plan that replaces it is stored, and not applied before the host is back.
    site.hosts["b"].hangs()
    await site.control.tick()
    site.clock.advance(LOST_AFTER_S)
    await site.report(0.25)
    await site.control.tick()
    assert site.control.leases.find(lost).end_reason == "partition_lost"
    assert holder.poll() is None, "nobody could reach it"
    await site.gets_back("b")
    await site.control.reconcile()
    assert partition not in {part.id for part in site.control.leases.free()}
    await site.control.tick()
    assert holder.wait(timeout=10) == -9
    assert "partition.evicted" in site.kinds()


async def test_a_short_silence_moves_nothing(site: TwoHosts, start_process: Start) -> None:
    await site.begin(0.25)
    lease, holder = await lease_on(site, "b", start_process)
    plan = site.store.newest_plan()
    site.hosts["b"].hangs()
    await site.play(0.25, seconds=LOST_AFTER_S - 1)
    site.hosts["b"].answers()
    await until(lambda: not site.pool._members["b"].silent, "b answers")
    await site.play(0.25, seconds=LOST_AFTER_S)
    assert site.control.leases.find(lease).state == "active"
    assert holder.poll() is None
    assert site.store.newest_plan() == plan


async def test_an_ai_partition_in_use_without_a_lease_is_not_on_offer_until_it_is_cleared(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.25)
    part, *_ = site.control.leases.free()
    stray = start_process()
    await site.pool.attach(part.id, stray.pid)
    await site.control.reconcile()
    assert part.id not in {one.id for one in site.control.leases.free()}
    await site.control.tick()
    assert stray.wait(timeout=10) == -9
    await site.control.tick()
    assert part.id in {one.id for one in site.control.leases.free()}


async def test_a_holder_gets_a_partition_of_its_own_host_though_others_are_larger(
    site: TwoHosts, start_process: Start
) -> None:
    await site.begin(0.1)
    largest, *_ = site.control.leases.free()
    gpus = {info.uuid: info.node for info in await site.pool.gpus()}
    assert gpus[largest.gpu_uuid] == "b"
    site.hosts["b"].is_far = True
    lease = await site.control.leases.acquire("engine", start_process().pid, 0, 50)
    assert gpus[lease.gpu_uuid] == "a"
    assert site.control.leases.live() == (lease,)
    with pytest.raises(CapacityError, match="no process"):
        await site.control.leases.acquire("another", start_process().pid, 0, 50)
    assert site.control.leases.live() == (lease,)
