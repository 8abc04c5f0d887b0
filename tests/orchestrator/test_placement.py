"""Where cells and engines run: the planner against every rule, and against HiGHS."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, UnavailableError
from orchestrator.mig import MigGeometry
from orchestrator.placement import (
    Fleet,
    FleetCell,
    FleetEngine,
    FleetGpu,
    FleetSite,
    PlannerSettings,
    allowed_sites,
    place,
)
from orchestrator.placement.cases import KINDS, large_case, settled, small_case, without_gpu
from orchestrator.placement.exact import solve
from orchestrator.placement.reasons import check
from orchestrator.placement.tables import divisions
from orchestrator.shares import ShareGeometry

GH200 = MigGeometry.load("GH200-96GB")
HERE = frozenset({"tokyo"})
QUICK = PlannerSettings(effort=0.05)


def gpu(number: int, site: str = "tokyo", **fields: object) -> FleetGpu:
    return FleetGpu(f"GPU-{number}", f"node-{number}", site, GH200, **fields)  # type: ignore[arg-type]


def cell(number: int, sms: int = 16, **fields: object) -> FleetCell:
    return FleetCell(f"cell-{number}", sms, HERE, **fields)  # type: ignore[arg-type]


def engine(number: int, sms: int = 16, **fields: object) -> FleetEngine:
    values = {"memory_mib": 8000, "value": 1.0, "sites": HERE} | fields
    return FleetEngine(f"engine-{number}", sms, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("loose", 5), ("mixed", 5), ("green", 2), ("residency", 6), ("reserved", 6), ("tight", 7)],
)
def test_the_planner_comes_near_the_optimum(kind: str, seed: int) -> None:
    fleet = small_case(kind, seed)
    plan = place(fleet)
    check(fleet, plan)
    optimum = solve(fleet)
    assert len(plan.cells) == len(optimum.cells)
    worth = sum(one.value for one in fleet.engines if one.id in optimum.engines)
    assert optimum.bound - plan.score <= 0.02 * worth
    assert plan.score <= optimum.bound + 1e-3


def test_an_optimum_that_is_not_proven_is_not_one() -> None:
    with pytest.raises(UnavailableError):
        solve(small_case("tight", 9), limit_s=0.2)


def test_a_group_has_no_more_cells_on_a_node_than_it_may() -> None:
    cells = tuple(cell(number, group="mast") for number in range(5))
    fleet = Fleet((gpu(0), gpu(1)), cells, max_per_node={"mast": 2})
    plan = place(fleet, QUICK)
    check(fleet, plan)
    assert len(plan.cells) == 4
    assert "group mast" in next(iter(plan.unplaced.values()))
    crowded = replace(plan, cells={one.id: "GPU-0" for one in cells[:3]})
    with pytest.raises(InvalidInputError, match="group mast"):
        check(fleet, crowded)


def test_reserved_engines_come_before_any_that_are_worth_more() -> None:
    paid = engine(0, sms=100, value=1.0, is_reserved=True)
    others = tuple(engine(number, sms=60, value=50.0) for number in range(1, 4))
    plan = place(Fleet((gpu(0),), (), (paid, *others)), QUICK)
    assert set(plan.engines) == {"engine-0"}


def test_the_ran_keeps_its_floor_where_there_are_no_cells() -> None:
    fleet = Fleet((gpu(0, ran_floor_sms=64),), (), (engine(0, sms=100), engine(1, sms=60)))
    plan = place(fleet, QUICK)
    check(fleet, plan)
    assert set(plan.engines) == {"engine-1"}
    with pytest.raises(InvalidInputError, match="floor"):
        check(fleet, place(replace(fleet, gpus=(gpu(0),)), QUICK))


def test_an_engine_in_another_partition_of_its_gpu_has_moved() -> None:
    fleet = Fleet((gpu(0),), (), (engine(0), engine(1)))
    plan = place(fleet, QUICK)
    running = fleet.at(plan)
    assert place(running, QUICK).moved_engines == ()
    elsewhere = replace(fleet.engines[0], gpu="GPU-0", partition=GH200.placement("2g", 0))
    assert fleet.is_engine_move(elsewhere, "GPU-0", GH200.placement("2g", 2))
    assert not fleet.is_engine_move(elsewhere, "GPU-0", GH200.placement("2g", 0))


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    floor=st.integers(1, 40),
)
@settings(max_examples=15)
def test_every_plan_keeps_every_rule(kind: str, seed: int, floor: int) -> None:
    fleet = small_case(kind, seed)
    heavier = tuple(replace(one, sms=max(one.sms, floor)) for one in fleet.cells)
    fleet = replace(fleet, cells=heavier)
    plan = place(fleet, QUICK)
    check(fleet, plan)
    everything = {one.id for one in fleet.cells} | {one.id for one in fleet.engines}
    assert everything == plan.cells.keys() | plan.engines.keys() | plan.unplaced.keys()
    assert all(plan.unplaced.values())


def test_the_same_fleet_gives_the_same_plan() -> None:
    fleet = small_case("tight", 1)
    assert place(fleet) == place(fleet)


def test_a_settled_fleet_does_not_move() -> None:
    fleet = settled(small_case("residency", 2))
    plan = place(fleet)
    assert plan.moved_cells == ()
    assert plan.moved_engines == ()


def test_what_a_lost_gpu_carried_goes_elsewhere_and_the_rest_stays() -> None:
    cells = tuple(cell(number, gpu=f"GPU-{number % 3}") for number in range(6))
    fleet = Fleet((gpu(0), gpu(1), gpu(2)), cells)
    left = without_gpu(fleet, "GPU-0")
    plan = place(left)
    check(left, plan)
    assert set(plan.moved_cells) == {"cell-0", "cell-3"}
    assert len(plan.cells) == 6


def test_cells_come_before_engines_whatever_those_are_worth() -> None:
    rich = tuple(engine(number, sms=60, value=1e5) for number in range(4))
    fleet = Fleet((gpu(0),), tuple(cell(number) for number in range(7)), rich)
    plan = place(fleet)
    check(fleet, plan)
    assert len(plan.cells) == 7
    assert plan.engines == {}
    assert "worth more to other engines" in plan.unplaced["engine-0"]


def test_the_sectors_of_a_mast_are_spread_over_nodes() -> None:
    fleet = Fleet((gpu(0), gpu(1)), tuple(cell(number, group="mast") for number in range(4)))
    on = list(place(fleet).cells.values())
    assert on.count("GPU-0") == on.count("GPU-1") == 2


def test_data_stays_where_it_must_and_clients_are_near() -> None:
    sites = (
        FleetSite("tokyo", frozenset({"jp"}), {"kanto": 4.0, "kansai": 12.0}),
        FleetSite("osaka", frozenset({"jp"}), {"kanto": 12.0, "kansai": 3.0}),
        FleetSite("paris", frozenset({"eu"}), {"idf": 3.0}),
    )
    assert allowed_sites(sites) == {"tokyo", "osaka", "paris"}
    assert allowed_sites(sites, residency=frozenset({"jp"})) == {"tokyo", "osaka"}
    near = allowed_sites(sites, region="kanto", max_latency_ms=10.0)
    assert near == {"tokyo"}
    fleet = Fleet((gpu(0, "paris"),), (), (engine(0, sites=near),))
    assert "latency and residency" in place(fleet).unplaced["engine-0"]


def test_what_fits_nowhere_is_named_with_the_reason() -> None:
    far = FleetCell("far", 8, frozenset({"osaka"}))
    fleet = Fleet((gpu(0),), (far, cell(1, sms=200)), (engine(0, memory_mib=200_000),))
    plan = place(fleet)
    assert "fronthaul" in plan.unplaced["far"]
    assert "more than any GPU" in plan.unplaced["cell-1"]
    assert "no GPU it may use" in plan.unplaced["engine-0"]


def test_no_gpu_at_all_leaves_everything_unplaced() -> None:
    plan = place(Fleet((), (cell(0),), (engine(0),)))
    assert set(plan.unplaced) == {"cell-0", "engine-0"}


def test_slower_sms_are_needed_in_greater_number() -> None:
    fleet = Fleet((gpu(0, speed=0.5),), tuple(cell(number) for number in range(5)))
    plan = place(fleet)
    check(fleet, plan)
    assert len(plan.cells) == 4  # 32 SMs each of 132


def test_no_division_is_kept_that_another_beats_for_both_sides() -> None:
    for geometry in (GH200, ShareGeometry("H100-SXM5-80GB", "green", 132, 81152)):
        found = divisions(geometry)
        assert {one.ran_sms for one in found} >= {0, 132}
        for one in found:
            assert one.ran_sms + sum(sms for sms, _ in one.parts) <= 132


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Fleet((gpu(0), gpu(0))), "gpus"),
        (lambda: Fleet((gpu(0),), (cell(0, sms=0),)), "cells"),
        (lambda: Fleet((gpu(0),), (), (engine(0, value=-1.0),)), "engines"),
        (lambda: Fleet((gpu(0),), spread_penalty=-1.0), "spread_penalty"),
        (lambda: PlannerSettings(effort=float("nan")), "effort"),
    ],
)
def test_impossible_fleets_are_refused(make: object, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        make()  # type: ignore[operator]


def test_a_region_is_planned_whole() -> None:
    fleet = large_case(120, 400, 20)
    plan = place(fleet, QUICK)
    check(fleet, plan)
    assert len(plan.cells) == 120
