"""Several nodes as one driver: hosts that hang, die, come back, and orchestrators whose lead is
over."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from airan.core.clock import ManualClock
from airan.core.errors import ConfigError, NotFoundError, NotLeaderError, UnavailableError
from orchestrator.drivers.epoch import EpochDriver, EpochGate
from orchestrator.drivers.pool import PoolDriver, PoolSettings
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.mig import MigGeometry
from tests.orchestrator.hosts import GPU, LOST_AFTER_S, SETTINGS, Host, until

Start = Callable[[], "subprocess.Popen[bytes]"]


class Rig:
    """Three hosts in a pool, on a clock moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        self.hosts = {name: Host(name, clock=self.clock) for name in ("a", "b", "c")}
        self.pool = PoolDriver(self.hosts, self.clock, SETTINGS)
        self.told: list[str] = []
        self.pool.tell = lambda kind, message, severity: self.told.append(f"{kind}: {message}")

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    async def gpu(self, name: str) -> str:
        return next(info.uuid for info in await self.pool.gpus() if info.node == name)

    async def loses(self, name: str) -> None:
        """The host hangs until it is given up."""
        self[name].hangs()
        await self.pool.gpus()
        self.clock.advance(LOST_AFTER_S)
        await self.pool.gpus()
        assert self.pool.lost_nodes == (name,)

    async def gets_back(self, name: str) -> None:
        self[name].answers()
        await until(lambda: not self.pool.lost_nodes, f"{name} is back")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await made.pool.meet()
    await made.pool.gpus()
    yield made
    await made.pool.close()


# --- routing


async def test_every_gpu_is_its_nodes_and_calls_go_there(rig: Rig) -> None:
    assert [info.node for info in await rig.pool.gpus()] == ["a", "b", "c"]
    made = await rig.pool.create(await rig.gpu("b"), "3g.48gb", 4)
    assert await rig["b"].node.instances() == (made,) == await rig.pool.instances()
    assert await rig["a"].node.instances() == ()
    await rig.pool.destroy(made.uuid)
    assert await rig["b"].node.instances() == ()


async def test_named_nodes_have_gpus_of_their_own_and_always_the_same(tmp_path: Path) -> None:
    a, b = (SimulatedNode(None, GPU, 2, name=name) for name in ("a", "b"))
    again = SimulatedNode(tmp_path / "made anew.json", GPU, 2, name="a")
    uuids = [info.uuid for node in (a, b) for info in await node.gpus()]
    assert len(set(uuids)) == 4
    assert [info.uuid for info in await again.gpus()] == uuids[:2]


async def test_an_instance_that_another_orchestrator_made_is_found(rig: Rig) -> None:
    foreign = await rig["c"].node.create(await rig.gpu("c"), "1g.12gb", 0)
    await rig.pool.destroy(foreign.uuid)
    assert await rig["c"].node.instances() == ()


async def test_a_joining_node_brings_its_gpus(rig: Rig) -> None:
    rig.pool.put("d", Host("d"))
    assert [info.node for info in await rig.pool.gpus()] == ["a", "b", "c", "d"]
    assert rig.told == ["node.joined: node d joins the pool"]


async def test_a_gpu_that_two_nodes_show_counts_once(rig: Rig) -> None:
    rig.pool.put("d", Host("a"))
    assert [info.node for info in await rig.pool.gpus()] == ["a", "b", "c"]
    made = await rig.pool.create(await rig.gpu("a"), "1g.12gb", 0)
    assert await rig["a"].node.instances() == (made,)
    await rig.pool.gpus()
    joined, doubled = rig.told
    assert joined == "node.joined: node d joins the pool"
    assert "nodes a and d both show GPU-" in doubled


async def test_a_host_that_comes_back_under_another_name_has_its_gpus(rig: Rig) -> None:
    await rig.loses("a")
    rig.pool.put("d", Host("a"))
    nodes = {info.node: info.lost for info in await rig.pool.gpus()}
    assert nodes == {"b": False, "c": False, "d": False}


# --- silence and loss


async def test_a_hanging_node_holds_a_reading_up_for_its_limit(rig: Rig) -> None:
    made = await rig.pool.create(await rig.gpu("b"), "3g.48gb", 4)
    await rig.pool.instances()
    rig["b"].hangs()
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    # What it last told stands in.
    assert [info.lost for info in await rig.pool.gpus()] == [False, False, False]
    assert loop.time() - begun_s >= SETTINGS.read_limit_s
    assert await rig.pool.instances() == (made,)


async def test_a_silent_node_holds_no_reading_up() -> None:
    host = Host("a")
    pool = PoolDriver({"a": host}, settings=PoolSettings(read_limit_s=1000.0))
    before = await pool.gpus()
    host.refuses()
    await pool.gpus()
    host.hangs()
    host.stops_refusing()
    async with asyncio.timeout(10.0):
        assert [info.uuid for info in await pool.gpus()] == [info.uuid for info in before]
        assert await pool.instances() == ()
    await pool.close()


async def test_a_node_that_refuses_is_as_silent_as_one_that_hangs(rig: Rig) -> None:
    rig["b"].refuses()
    await rig.pool.gpus()
    rig.clock.advance(LOST_AFTER_S)
    await rig.pool.gpus()
    assert rig.pool.lost_nodes == ("b",)
    assert "connection refused" in rig.told[0]


async def test_a_short_silence_is_no_loss(rig: Rig) -> None:
    rig["b"].hangs()
    await rig.pool.gpus()
    rig.clock.advance(LOST_AFTER_S - 0.1)
    await rig.pool.gpus()
    asked = rig["b"].asked
    rig["b"].answers()
    await until(lambda: rig["b"].asked > asked, "it is asked again")
    rig.clock.advance(LOST_AFTER_S)
    assert not any(info.lost for info in await rig.pool.gpus())
    assert rig.told == []


async def test_the_gpus_of_a_lost_node_are_lost_and_the_others_go_on(rig: Rig) -> None:
    stale = await rig.pool.create(await rig.gpu("b"), "3g.48gb", 4)
    kept = await rig.pool.create(await rig.gpu("c"), "3g.48gb", 4)
    gpu = await rig.gpu("b")
    await rig.loses("b")
    lost = {info.node: (info.lost, info.power_w is None) for info in await rig.pool.gpus()}
    assert lost == {"a": (False, False), "b": (True, True), "c": (False, False)}
    assert await rig.pool.instances() == (kept,)
    for call in (
        rig.pool.create(gpu, "1g.12gb", 0),
        rig.pool.destroy(stale.uuid),
        rig.pool.attach(stale.uuid, os.getpid()),
        rig.pool.detach(stale.uuid, os.getpid()),
        rig.pool.evict(stale.uuid),
    ):
        with pytest.raises(UnavailableError, match="node b is lost"):
            await call
    await rig.pool.destroy(kept.uuid)
    why = f"no answer within {SETTINGS.read_limit_s:g} s"
    assert rig.told == [f"node.lost: node b is lost with 1 GPUs: {why}"]


async def test_a_call_under_way_fails_when_its_node_is_lost(rig: Rig) -> None:
    gpu = await rig.gpu("b")
    rig["b"].hangs()
    making = asyncio.create_task(rig.pool.create(gpu, "1g.12gb", 0))
    await rig.pool.gpus()
    assert not making.done()
    rig.clock.advance(LOST_AFTER_S)
    await rig.pool.gpus()
    with pytest.raises(UnavailableError, match="node b is lost"):
        await making


async def test_what_a_silent_node_may_have_is_not_said_not_to_exist(rig: Rig) -> None:
    with pytest.raises(NotFoundError):
        await rig.pool.destroy("MIG-none")
    await rig.loses("b")
    with pytest.raises(UnavailableError, match="node b, which does not answer, may have it"):
        await rig.pool.destroy("MIG-none")
    with pytest.raises(NotFoundError):
        await rig.pool.create("GPU-none", "1g.12gb", 0)


async def test_a_node_that_comes_back_shows_what_is_there_by_then(rig: Rig) -> None:
    first = await rig.pool.create(await rig.gpu("b"), "3g.48gb", 4)
    await rig.loses("b")
    await rig["b"].node.destroy(first.uuid)
    second = await rig["b"].node.create(first.gpu_uuid, "1g.12gb", 0)
    await rig.gets_back("b")
    assert await rig.pool.instances() == (second,)
    assert not any(info.lost for info in await rig.pool.gpus())
    assert rig.told[-1] == "node.back: node b answers again, with 1 partitions"
    await rig.pool.destroy(second.uuid)


async def test_a_node_may_come_back_through_another_driver(rig: Rig) -> None:
    await rig.loses("b")
    rig.pool.put("b", Host("b"))
    await rig.pool.gpus()
    await until(lambda: not rig.pool.lost_nodes, "b is back")
    assert [info.lost for info in await rig.pool.gpus()] == [False, False, False]


async def test_the_geometry_of_a_silent_node_is_known_through_another_driver_too(rig: Rig) -> None:
    gpu, geometry = await rig.gpu("b"), MigGeometry.load(GPU)
    successor = Host("b", knows_nothing_yet=True)
    successor.refuses()
    rig.pool.put("b", successor)
    (info,) = [one for one in await rig.pool.gpus() if one.node == "b"]
    assert (info.uuid, info.lost) == (gpu, False)
    assert rig.pool.geometry(gpu) == geometry


async def test_a_node_may_be_lost_and_come_back_many_times(rig: Rig) -> None:
    for _ in range(3):
        await rig.loses("c")
        await rig.gets_back("c")
    await rig.pool.gpus()
    assert [line.split(":")[0] for line in rig.told] == ["node.lost", "node.back"] * 3


async def test_meeting_waits_for_slow_nodes_but_not_for_lost_ones() -> None:
    rig = Rig()
    rig["b"].hangs()
    meeting = asyncio.create_task(rig.pool.meet())
    await until(lambda: rig["b"].asked > 1, "b is asked again")
    assert not meeting.done()
    rig.clock.advance(LOST_AFTER_S)
    await meeting
    assert rig.pool.lost_nodes == ("b",)
    assert [info.node for info in await rig.pool.gpus()] == ["a", "c"], "b never told its GPUs"
    await rig.pool.close()


async def test_a_process_on_a_gpu_off_the_bus_can_be_evicted_after_any_reading(
    rig: Rig, start_process: Start
) -> None:
    made = await rig.pool.create(await rig.gpu("b"), "3g.48gb", 4)
    child = start_process()
    await rig.pool.attach(made.uuid, child.pid)
    rig["b"].node.inject_xid(made.gpu_uuid, 79)
    await rig.pool.gpus()
    assert await rig.pool.instances() == ()
    assert await rig.pool.evict(made.uuid) == (child.pid,)


# --- epochs


async def test_an_orchestrator_whose_lead_is_over_changes_nothing(tmp_path: Path) -> None:
    node = SimulatedNode(None, GPU, delays_s=(0.0, 0.0))
    gate = EpochGate("a", tmp_path / "state" / "epoch")
    old, new = (EpochDriver(node, gate, epoch) for epoch in (4, 5))
    (gpu,) = await old.gpus()
    made = await old.create(gpu.uuid, "1g.12gb", 0)
    await new.instances()
    for call in (
        old.create(gpu.uuid, "1g.12gb", 1),
        old.destroy(made.uuid),
        old.attach(made.uuid, os.getpid()),
        old.detach(made.uuid, os.getpid()),
        old.evict(made.uuid),
    ):
        with pytest.raises(NotLeaderError, match="epoch 5, not the one of epoch 4"):
            await call
    assert await old.instances() == (made,), "reading is free"
    await new.destroy(made.uuid)


async def test_a_node_that_starts_anew_still_knows_the_epoch(tmp_path: Path) -> None:
    EpochGate("a", tmp_path / "epoch").see(7)
    gate = EpochGate("a", tmp_path / "epoch")
    assert gate.highest == 7
    gate.see(3)
    assert EpochGate("a", tmp_path / "epoch").highest == 7
    with pytest.raises(NotLeaderError, match=r"remove .*epoch on the node"):
        gate.admit(6)
    gate.admit(7)


async def test_a_file_without_an_epoch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("seven")
    with pytest.raises(ConfigError, match="holds no epoch: 'seven'"):
        EpochGate("a", tmp_path / "epoch")


async def test_one_stale_epoch_in_the_pool_is_told_as_such(tmp_path: Path) -> None:
    node = SimulatedNode(None, GPU, delays_s=(0.0, 0.0), name="a")
    gate = EpochGate("a", tmp_path / "epoch")
    pool = PoolDriver({"a": EpochDriver(node, gate, 1)})
    (gpu,) = await pool.gpus()
    gate.see(2)
    with pytest.raises(NotLeaderError, match="node a obeys"):
        await pool.create(gpu.uuid, "1g.12gb", 0)
