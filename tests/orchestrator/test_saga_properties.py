"""Whatever happens in whatever order: no overlap, no slice lost, the RAN's floor, no lease leaked;
against a naive allocator."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airan.core.errors import AiranError, CapacityError, InUseError, UnavailableError
from orchestrator.drivers.simulated import XID_FELL_OFF_THE_BUS
from orchestrator.geometry import Geometry
from orchestrator.mig import Layout, MigGeometry
from orchestrator.plan import Demand, Gpu, Inventory, Partition, plan, role_sms
from orchestrator.policy import Policy
from orchestrator.shares import ShareGeometry
from orchestrator.steps import least_ran_sms, steps
from orchestrator.store import Store
from tests.orchestrator import naive
from tests.orchestrator.faulty import DEATH, GPU, Rig, at_once

Event = tuple[Any, ...]
FLOORS = (0.1, 0.3, 0.45)
SHARES = st.sampled_from((0.0, 0.05, 0.2, 0.35, 0.5, 0.7, 0.9))

policies = st.builds(
    Policy,
    st.sampled_from(("static", "demand")),
    ran_share=SHARES,
    headroom=st.sampled_from((0.0, 0.1)),
    min_ran_share=st.sampled_from(FLOORS),
    min_ai_share=st.sampled_from((0.0, 0.2)),
    min_lease_s=st.sampled_from((0.0, 5.0)),
    notice_ms=st.just(0),
    drift=st.sampled_from(("mend", "report")),
)
events = st.one_of(
    st.tuples(st.just("demand"), SHARES),
    st.tuples(st.just("policy"), policies),
    st.tuples(st.just("lease")),
    st.tuples(st.just("release")),
    st.tuples(
        st.just("fault"),
        st.integers(1, 12),
        st.sampled_from(("fails before", "fails after", "refuses", DEATH)),
        st.booleans(),
    ),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("heal"), st.integers(0, 1)),
    st.tuples(st.just("by hand")),
    st.tuples(st.just("restart")),
)


class Story:
    """What happens to one site."""

    def __init__(self, rig: Rig, start_process: Any) -> None:
        self.rig, self._start_process = rig, start_process
        self.demand, self.engines = 0.2, 0

    async def happen(self, event: Event) -> None:
        what, *values = event
        if what == "demand":
            (self.demand,) = values
        elif what == "policy":
            (self.rig.policy,) = values
            # Refused while every GPU is lost.
            with contextlib.suppress(UnavailableError):
                await self.rig.control.set_policy(values[0], dry_run=False)
        elif what == "lease":
            self.engines += 1
            with contextlib.suppress(CapacityError):
                pid = self._start_process().pid
                await self.rig.control.leases.acquire(f"engine-{self.engines}", pid, 0, 0)
        elif what == "release":
            for lease in self.rig.control.leases.live()[:1]:
                await self.rig.control.leases.release(lease.id)
        elif what == "fault":
            at, fault, lasting = values
            self.rig.effects.arm(at, fault, lasting=lasting and fault != DEATH)
        elif what == "restart":
            await self.rig.restart()
        else:
            await self._to_the_node(what, *values)

    async def _to_the_node(self, what: str, number: int = 0) -> None:
        gpu_uuid = self.rig.uuids[number % len(self.rig.uuids)]
        if what == "lose":
            self.rig.node.inject_xid(gpu_uuid, XID_FELL_OFF_THE_BUS)
        elif what == "heal":
            self.rig.node.heal(gpu_uuid)
        else:
            for one in at_once(self.rig.node.instances()):
                kind = self.rig.node.geometry(one.gpu_uuid).kind
                small = ("1g.12gb", one.placement.start) if kind == "mig" else (f"{kind}.8", 0)
                with contextlib.suppress(InUseError, CapacityError):
                    await self.rig.node.destroy(one.uuid)
                    await self.rig.node.create(one.gpu_uuid, *small)
                    return

    async def look(self) -> None:
        """Four looks at the site, far enough apart for every back-off to be over."""
        for _ in range(4):
            self.rig.clock.advance(31.0)
            # What is not there any more, by whatever fault, nobody can keep.
            self.rig.needed_sms = min(self.floor(), self.rig.ran_sms())
            if await self.rig.dies(self._look()):
                await self.rig.restart()
            self.rig.effects.disarm()

    async def _look(self) -> None:
        with contextlib.suppress(AiranError):
            await self.rig.report(self.demand)
            await self.rig.control.tick()
        ready = self.rig.control.applier.ready
        if ready.is_set():
            ready.clear()
            await self.rig.control.apply_newest()

    def alive(self) -> list[str]:
        return [info.uuid for info in at_once(self.rig.node.gpus()) if not info.lost]

    def floor(self) -> int:
        sms = MigGeometry.load(GPU).sm_count * len(self.alive())
        return math.ceil(self.rig.control.policy.min_ran_share * sms - 1e-9)

    async def check(self) -> None:
        self.rig.check()
        alive = self.alive()
        inventory = await self.rig.control.observer.inventory()
        sizes = {part.id: (part.sm_count, part.memory_mib) for part in inventory.partitions}
        for lease in self.rig.control.leases.live():
            assert (lease.sm_count, lease.memory_mib) == sizes[lease.partition_id]
        for gpu_uuid in alive:
            on = [part.placement for part in inventory.partitions if part.gpu_uuid == gpu_uuid]
            positions = self.rig.node.geometry(gpu_uuid).positions
            free = naive.free_slices(((one.start, one.size) for one in on), positions)
            assert sum(one.size for one in on) + free == positions
        if not alive:
            return
        assert self.rig.newest().state == "applied"
        # Without MIG the RAN can have every SM, but not an AI's part that cannot be divided.
        mig = self.rig.node.geometry(alive[0]).kind == "mig"
        if not mig or naive.can_give(GPU, len(alive), self.floor()):
            assert role_sms(inventory.partitions, "ran") >= self.floor()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "control.sqlite")
        yield store
        store.close()


@settings(
    max_examples=12,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(("mig", "mig", "green", "mps")),
    n_gpus=st.integers(1, 2),
    first=policies,
    happened=st.lists(events, min_size=1, max_size=8),
)
async def test_whatever_happens_the_ran_has_its_floor_and_nothing_leaks(
    store: Store,
    start_process: Any,
    kind: str,
    n_gpus: int,
    first: Policy,
    happened: list[Event],
) -> None:
    rig = Rig(store, n_gpus=n_gpus, policy=first, kind=kind)
    story = Story(rig, start_process)
    await rig.control.start()
    await story.look()
    await story.check()
    for event in happened:
        await story.happen(event)
        await story.look()
        await story.check()
    await rig.close()


def test_the_naive_allocator_finds_every_split_that_the_planner_knows() -> None:
    geometry = MigGeometry.load(GPU)
    assert naive.most_sms_divided(GPU) == geometry.divided_sm_count
    assert (60, 64) in naive.splits(GPU)
    with pytest.raises(ValueError, match="not free"):
        naive.free_slices([(0, 4), (3, 1)])


ROLES = st.lists(st.sampled_from(("ran", "ai", "free")), min_size=7, max_size=7)
GEOMETRIES: tuple[Geometry, ...] = (
    MigGeometry.load(GPU),
    *(ShareGeometry(GPU, kind, 132, 97871) for kind in ("green", "mps", "whole")),
)
DIVIDED = {
    one: st.tuples(st.just(one), st.sampled_from(one.layouts()), ROLES) for one in GEOMETRIES
}
LAYOUTS = st.one_of(
    *(st.lists(one, min_size=1, max_size=2) for one in DIVIDED.values()),
    # One host may have MIG enabled on some of its GPUs only.
    st.lists(st.one_of(*DIVIDED.values()), min_size=2, max_size=2),
)


@settings(max_examples=120)
@given(
    policy=policies,
    drained=st.booleans(),
    there=LAYOUTS,
    demand=SHARES,
)
def test_no_plan_takes_the_ran_below_its_floor_on_the_way(
    policy: Policy, drained: bool, there: list[tuple[Geometry, Layout, list[str]]], demand: float
) -> None:
    gpus, parts = [], []
    for number, (geometry, layout, roles) in enumerate(there):
        gpus.append(Gpu(f"GPU-{number}", geometry, drained and number == 1))
        for place, role in zip(layout, roles, strict=False):
            sms, name = geometry.profile(place.profile).sm_count, f"{number}/{place.start}"
            parts.append(Partition(name, f"GPU-{number}", place, sms, 0, role))
    inventory = Inventory(tuple(gpus), tuple(parts), ran_in_use=True)
    held = role_sms(parts, "ran")
    chosen = plan(policy, inventory, Demand(demand, demand, demand), None)
    least = least_ran_sms(steps(chosen, inventory), inventory)
    floor = math.ceil(policy.min_ran_share * inventory.sm_count - 1e-9)
    assert least >= min(held, floor, role_sms(chosen.targets, "ran"))
