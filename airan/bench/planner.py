"""How good and how fast the fleet planner is, beside HiGHS."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from airan.bench.rows import Row, hardware, row
from airan.core.errors import UnavailableError
from orchestrator.placement import Fleet, FleetPlan, place
from orchestrator.placement.bound import upper_bound
from orchestrator.placement.cases import KINDS, large_case, settled, small_case, without_gpu
from orchestrator.placement.exact import Optimum, search
from orchestrator.placement.reasons import check

_SIZES = ((60, 200, 10), (150, 500, 25), (300, 1000, 50), (600, 2000, 100))
_REPEATS = 5
_PEER = "HiGHS (MIP)"


@dataclass(frozen=True)
class PlannerOptions:
    """What is measured."""

    n_cases: int = 10
    """Small cases of each kind."""
    limit_s: float = 30.0
    """HiGHS's time for one; a case it has not solved by then counts by its bound."""
    seed: int = 0


@dataclass(frozen=True)
class _Case:
    gap: float
    ours_s: float
    optimum: Optimum


def measure(options: PlannerOptions, say: Callable[[str], None]) -> Iterator[Row]:
    """Every row, as it is measured; each plan is checked against every rule of its fleet."""
    place(small_case("loose", 0))  # compiled once
    yield from _gaps(options, say)
    for size in _SIZES:
        say("{} cells, {} engines, {} GPUs".format(*size))
        yield from _times(size)


def _gaps(options: PlannerOptions, say: Callable[[str], None]) -> Iterator[Row]:
    cases: list[_Case] = []
    n_unsolved = 0
    for kind in KINDS:
        for number in range(options.n_cases):
            say(f"{kind} {number + 1} of {options.n_cases}")
            try:
                cases.append(_case(small_case(kind, options.seed + number), options.limit_s))
            except UnavailableError:
                n_unsolved += 1
    if not cases:
        raise UnavailableError(
            "HiGHS found no placement of any small fleet", remedy="give it a longer --limit-s"
        )
    proven = sum(case.optimum.is_proven for case in cases)
    what = (
        f"{hardware()}; {len(cases)} generated fleets of 3 to 6 GPUs, {proven} solved to the"
        f" optimum by HiGHS, the others by its bound, {n_unsolved} given up"
    )
    gaps = [case.gap for case in cases]
    yield row("optimality_gap", 100.0 * max(gaps), "%", what)
    yield row("optimality_gap_mean", 100.0 * statistics.mean(gaps), "%", what)
    of_proven = [case.gap for case in cases if case.optimum.is_proven]
    if of_proven:
        yield row("optimality_gap_proven", 100.0 * max(of_proven), "%", what)
    theirs_s = statistics.median(case.optimum.solve_s for case in cases)
    ours_s = statistics.median(case.ours_s for case in cases)
    yield row("plan_small_case_s", ours_s, "s", what, peer=(_PEER, theirs_s))


def _case(fleet: Fleet, limit_s: float) -> _Case:
    plan, ours_s = _timed(fleet)
    optimum = search(fleet, limit_s)
    reserved = {one.id for one in fleet.engines if one.is_reserved}
    misses_reserved = len(reserved & plan.engines.keys()) < len(reserved & optimum.engines.keys())
    if len(plan.cells) < len(optimum.cells) or misses_reserved:
        return _Case(1.0, ours_s, optimum)
    # Against what the engines are worth at the optimum, moves and crowding not taken off.
    worth = sum(one.value for one in fleet.engines if one.id in optimum.engines)
    return _Case(max(0.0, optimum.bound - plan.score) / max(worth, 1e-9), ours_s, optimum)


def _times(size: tuple[int, int, int]) -> Iterator[Row]:
    n_cells, n_engines, n_gpus = size
    fleet = large_case(n_cells, n_engines, n_gpus)
    runs = [_timed(fleet) for _ in range(_REPEATS)]
    plan = runs[0][0]
    what = (
        f"{hardware()}; generated, {n_gpus} GPUs, {len(plan.cells)} cells and"
        f" {len(plan.engines)} engines placed; median of {_REPEATS}"
    )
    name = f"plan_{n_cells}_cells_{n_engines}_engines"
    yield row(f"{name}_s", statistics.median(seconds for _, seconds in runs), "s", what)
    if size == _SIZES[-1]:
        most = upper_bound(fleet, len(plan.cells))
        below = "below an upper bound by a linear programme; the optimum lies between"
        yield row(f"{name}_bound_gap", 100.0 * (1.0 - plan.worth / most), "%", f"{what}; {below}")
        yield from _after_loss(fleet, name)


def _after_loss(fleet: Fleet, name: str) -> Iterator[Row]:
    running = settled(fleet)
    lost = [gpu.uuid for gpu in running.gpus if gpu.node == running.gpus[0].node]
    left = without_gpu(running, *lost)
    homeless = sum(one.gpu in lost for one in running.cells)
    runs = [_timed(left) for _ in range(_REPEATS)]
    plan = runs[0][0]
    forced = sum(one.gpu in lost and one.id in plan.cells for one in running.cells)
    what = f"{hardware()}; a node with {len(lost)} GPUs and {homeless} cells lost"
    yield row(f"{name}_after_loss_s", statistics.median(seconds for _, seconds in runs), "s", what)
    yield row("cells_moved_after_loss", len(plan.moved_cells), "cells", what)
    yield row("engines_moved_after_loss", len(plan.moved_engines), "engines", what)
    yield row("cells_moved_without_need", len(plan.moved_cells) - forced, "cells", what)


def _timed(fleet: Fleet) -> tuple[FleetPlan, float]:
    begun_s = time.perf_counter()
    plan = place(fleet)
    seconds = time.perf_counter() - begun_s
    check(fleet, plan)
    return plan, seconds
