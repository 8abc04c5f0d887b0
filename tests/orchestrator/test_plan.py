"""The planner: properties against a naive allocator, and the rules it is known for."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InUseError, InvalidInputError
from orchestrator.mig import MEMORY_SLICES, MigGeometry, Placement
from orchestrator.plan import Demand, Gpu, Inventory, Partition, Plan, plan, role_sms
from orchestrator.policy import Policy
from orchestrator.steps import Step, steps

GEOMETRY = MigGeometry.load("GH200-96GB")
GPU = Gpu("GPU-1", GEOMETRY)
EMPTY = Inventory((GPU,))


def steady(share: float) -> Demand:
    return Demand(share, share, share)


def partition(
    placement: Placement, role: str, *, leased: bool = False, gpu: Gpu = GPU
) -> Partition:
    profile = gpu.geometry.profile(placement.profile)
    name = f"{gpu.uuid}/{placement.profile}@{placement.start}"
    return Partition(name, gpu.uuid, placement, profile.sm_count, profile.memory_mib, role, leased)


def after(step: Step, inventory: Inventory) -> Inventory:
    """What the inventory is after a step; a create must find its place free."""
    parts = list(inventory.partitions)
    if step.kind == "create":
        gpu = next(gpu for gpu in inventory.gpus if gpu.uuid == step.gpu_uuid)
        assert not any(
            part.placement.overlaps(step.placement)
            for part in parts
            if part.gpu_uuid == step.gpu_uuid
        )
        parts.append(partition(step.placement, step.role, gpu=gpu))
        return replace(inventory, partitions=tuple(parts))
    index = next(i for i, part in enumerate(parts) if part.id == step.partition_id)
    part = parts[index]
    if step.kind == "destroy":
        assert not part.leased
        assert not (part.role == "ran" and inventory.ran_in_use), "cells still run there"
        parts.pop(index)
    elif step.kind == "revoke":
        parts[index] = replace(part, leased=False)
    else:
        assert not part.leased
        parts[index] = replace(part, role=step.role)
    return replace(inventory, partitions=tuple(parts))


def carry_out(chosen: Plan, inventory: Inventory) -> tuple[Inventory, int]:
    """The inventory once the plan is applied, and the fewest SMs the RAN had on the way."""
    least = role_sms(inventory.partitions, "ran")
    while todo := steps(chosen, inventory):
        inventory = after(todo[0], inventory)
        least = min(least, role_sms(inventory.partitions, "ran"))
    return inventory, least


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    layout = draw(st.sampled_from(GEOMETRY.layouts()))
    parts = []
    for placement in layout:
        role = draw(st.sampled_from(("ran", "ai", "free")))
        leased = role == "ai" and draw(st.booleans())
        parts.append(partition(placement, role, leased=leased))
    return Inventory((GPU,), tuple(parts), ran_in_use=draw(st.booleans()))


shares = st.floats(0.0, 1.0)
demands = st.builds(Demand, shares, shares, shares, assumed=st.booleans())
policies = st.builds(
    Policy,
    kind=st.sampled_from(("static", "demand")),
    ran_share=shares,
    headroom=st.floats(0.0, 0.3),
    min_ran_share=st.floats(0.0, 0.5),
)


def test_a_fresh_gpu_is_split_60_to_40_as_4g_and_3g() -> None:
    chosen = plan(Policy("static", ran_share=0.6), EMPTY, steady(0.1), None)
    assert {(t.placement.profile, t.role) for t in chosen.targets} == {
        ("4g.48gb", "ran"),
        ("3g.48gb", "ai"),
    }
    assert "8 of 132 SMs stranded by MIG" in chosen.reason
    assert chosen.generation == 1


def test_no_plan_is_made_where_nothing_changes() -> None:
    first = plan(Policy(), EMPTY, steady(0.3), None)
    there, _ = carry_out(first, EMPTY)
    assert plan(Policy(), there, steady(0.3), first) is first


def test_the_ai_grows_only_if_the_ran_can_do_without_for_the_lease() -> None:
    start = plan(Policy(), EMPTY, steady(0.8), None)
    there, _ = carry_out(start, EMPTY)
    there = replace(there, ran_in_use=True)
    brief = Demand(now_share=0.2, forecast_share=0.2, sustained_share=0.8)
    assert plan(Policy(), there, brief, start) is start
    assert plan(Policy(), there, steady(0.2), start).ai_share > start.ai_share


def test_a_demand_no_division_covers_takes_the_undivided_gpu_only_while_no_cell_runs() -> None:
    assert [t.placement.profile for t in plan(Policy(), EMPTY, steady(0.97), None).targets] == [
        "7g.96gb"
    ]
    running = Inventory(
        (GPU,),
        (partition(Placement(0, 4, "4g.48gb"), "ran"), partition(Placement(4, 4, "3g.48gb"), "ai")),
        ran_in_use=True,
    )
    chosen = plan(Policy(), running, steady(0.97), None)
    assert role_sms(chosen.targets, "ran") == 124
    assert "8 more than any layout gives" in chosen.reason


def test_an_assumed_demand_never_takes_the_undivided_gpu() -> None:
    chosen = plan(Policy(), EMPTY, Demand(1.0, 1.0, 1.0, assumed=True), None)
    assert role_sms(chosen.targets, "ran") == 124


def test_a_lease_is_not_revoked_for_a_few_sms() -> None:
    running = Inventory(
        (GPU,),
        (
            partition(Placement(0, 4, "4g.48gb"), "ran"),
            partition(Placement(4, 4, "3g.48gb"), "ai", leased=True),
        ),
        ran_in_use=True,
    )
    parent = plan(Policy("static", ran_share=0.6), EMPTY, steady(0.1), None)
    # 3g would do for the RAN and give the AI 64 SMs instead of 60.
    assert plan(Policy(), running, steady(0.3), parent) is parent


def test_a_pool_is_filled_gpu_by_gpu() -> None:
    other = Gpu("GPU-2", GEOMETRY)
    pool = Inventory((GPU, other))
    chosen = plan(Policy(headroom=0.0), pool, steady(0.7), None)
    on_second = [t for t in chosen.targets if t.gpu_uuid == "GPU-2"]
    assert role_sms(chosen.targets, "ran") >= math.ceil(0.7 * 264)
    assert role_sms(on_second, "ai") == 60
    # A GPU that the RAN does not need goes to the AI undivided.
    idle = plan(Policy(headroom=0.0), pool, steady(0.1), None)
    assert [t.placement.profile for t in idle.targets if t.gpu_uuid == "GPU-2"] == ["7g.96gb"]


def test_a_policy_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"policy\.kind"):
        Policy("greedy")
    with pytest.raises(InvalidInputError, match=r"policy\.headroom"):
        Policy(headroom=float("nan"))
    with pytest.raises(InvalidInputError, match=r"policy\.notice_ms"):
        Policy(notice_ms=-1)


def test_steps_refuse_a_plan_that_would_stop_running_cells() -> None:
    whole = plan(Policy("static", ran_share=1.0), EMPTY, steady(0.1), None)
    running = Inventory((GPU,), (partition(Placement(0, 4, "4g.48gb"), "ran"),), ran_in_use=True)
    with pytest.raises(InUseError, match="running cells"):
        steps(whole, running)


@settings(max_examples=150)
@given(policy=policies, inventory=inventories(), demand=demands)
def test_slices_are_never_shared_and_nothing_is_lost(
    policy: Policy, inventory: Inventory, demand: Demand
) -> None:
    chosen = plan(policy, inventory, demand, None)
    taken = [0] * MEMORY_SLICES
    for target in chosen.targets:
        for position in range(
            target.placement.start, target.placement.start + target.placement.size
        ):
            taken[position] += 1
    assert max(taken) <= 1
    GEOMETRY.check(target.placement for target in chosen.targets)
    free = taken.count(0)
    assert sum(target.placement.size for target in chosen.targets) + free == MEMORY_SLICES
    assert all(target.role in ("ran", "ai") for target in chosen.targets)
    assert plan(policy, inventory, demand, None) == chosen, "the same input, the same plan"


@settings(max_examples=150)
@given(policy=policies, inventory=inventories(), demand=demands)
def test_every_plan_is_reached_and_the_ran_keeps_what_it_needs_on_the_way(
    policy: Policy, inventory: Inventory, demand: Demand
) -> None:
    chosen = plan(policy, inventory, demand, None)
    held = role_sms(inventory.partitions, "ran")
    there, least = carry_out(chosen, inventory)
    assert {(p.placement, p.role) for p in there.partitions} == {
        (t.placement, t.role) for t in chosen.targets
    }
    if inventory.ran_in_use and held:
        needed = math.ceil(demand.now_share * GEOMETRY.sm_count - 1e-9)
        given = role_sms(chosen.targets, "ran")
        # A static policy may give the RAN less than it needs, but never nothing.
        assert given >= (1 if policy.kind == "static" else min(held, max(1, needed)))
        assert least >= min(held, given, max(1, needed))


@settings(max_examples=100)
@given(demand=shares, headroom=st.floats(0.0, 0.3))
def test_the_ran_is_covered_whenever_a_naive_allocator_can(demand: float, headroom: float) -> None:
    policy = Policy(headroom=headroom, min_ran_share=0.0)
    chosen = plan(policy, EMPTY, steady(demand), None)
    ran, ai = (role_sms(chosen.targets, role) for role in ("ran", "ai"))
    needed = max(1, math.ceil(min(1.0, demand + headroom) * 132 - 1e-9))
    # The naive allocator looks at every legal layout with every assignment of roles.
    splits = {
        tuple(
            sum(
                GEOMETRY.profile(p.profile).sm_count
                for p, r in zip(layout, roles, strict=True)
                if r == role
            )
            for role in ("ran", "ai")
        )
        for layout in GEOMETRY.layouts()
        for roles in product(("ran", "ai"), repeat=len(layout))
        if len(layout) > 1
    }
    covering = [split for split in splits if split[0] >= needed]
    if covering:
        assert ran >= needed
        assert max(ai_sms for _, ai_sms in covering) - ai <= 48, "the largest partition comes first"
        largest = max((t.sm_count for t in chosen.targets if t.role == "ai"), default=0)
        assert largest == _largest_ai_beside(needed)
    else:
        assert ran >= 124


def _largest_ai_beside(needed: int) -> int:
    best = 0
    for layout in GEOMETRY.layouts():
        total = GEOMETRY.sms(layout)
        for placement in layout:
            sms = GEOMETRY.sms((placement,))
            if total - sms >= needed:
                best = max(best, sms)
    return best
