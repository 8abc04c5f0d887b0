"""The fleet's placement as a mixed-integer programme, solved by HiGHS: the oracle for small cases.

A GPU's division is one binary a way to divide it; an engine goes to a slot, which is a partition
size of a GPU that is there as often as the division has it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import highspy

from airan.core.errors import UnavailableError
from orchestrator.mig import Placement
from orchestrator.placement.model import Fleet, FleetGpu, sms_on
from orchestrator.placement.tables import Division, divisions

_TOLERANCE = 1e-4
"""Of the score."""


@dataclass(frozen=True)
class Optimum:
    """The best that HiGHS found, and what nothing can be better than."""

    cells: dict[str, str]
    """GPU by cell."""
    engines: dict[str, str]
    """GPU by engine."""
    score: float
    """As `FleetPlan.score`."""
    bound: float
    """No plan has a higher score."""
    is_proven: bool
    """The score is the highest there is, within the tolerance."""
    solve_s: float


@dataclass(frozen=True)
class _Slot:
    gpu: FleetGpu
    sms: int
    mib: int
    kept: Placement | None
    """If engines run in it now; else any partition of this size."""
    number: int
    """Of the slots like this on this GPU."""


def solve(fleet: Fleet, limit_s: float = 60.0) -> Optimum:
    """The best placement.

    Raises:
        UnavailableError: HiGHS has not proven one within `limit_s`.
    """
    found = search(fleet, limit_s)
    if not found.is_proven:
        raise UnavailableError(
            f"HiGHS has not solved the placement to the optimum within {limit_s:g} s",
            remedy="give it more time, or fewer GPUs",
        )
    return found


def search(fleet: Fleet, limit_s: float = 60.0) -> Optimum:
    """The best placement that HiGHS finds in that time, with its bound.

    Raises:
        UnavailableError: it found none.
    """
    return _Programme(fleet).solve(limit_s)


class _Programme:
    """Variables and rows."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._h = highspy.Highs()
        self._h.setOptionValue("output_flag", False)
        self._h.setOptionValue("threads", 1)
        self._ran: dict[tuple[str, str], Any] = {}
        self._engine: dict[tuple[str, _Slot], Any] = {}
        for gpu in fleet.gpus:
            self._divide(gpu)
        self._once()
        self._spread()

    def solve(self, limit_s: float) -> Optimum:
        h = self._h
        h.setOptionValue("time_limit", limit_s)
        h.setOptionValue("mip_rel_gap", 0.0)
        h.setOptionValue("mip_abs_gap", _TOLERANCE)
        h.setMaximize()
        h.run()
        info = h.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            raise UnavailableError(
                f"HiGHS found no placement within {limit_s:g} s", remedy="give it more time"
            )
        values = h.getSolution().col_value
        cells = {c: g for (c, g), var in self._ran.items() if values[var.index] > 0.5}
        engines = {
            e: slot.gpu.uuid for (e, slot), var in self._engine.items() if values[var.index] > 0.5
        }
        return Optimum(
            cells,
            engines,
            info.objective_function_value,
            info.mip_dual_bound,
            h.getModelStatus() == highspy.HighsModelStatus.kOptimal,
            h.getRunTime(),
        )

    def _divide(self, gpu: FleetGpu) -> None:
        """One division; its RAN part holds the cells, its AI parts the engines."""
        ways = divisions(gpu.geometry, self._fleet.partitions_now[gpu.uuid])
        chosen = [self._h.addBinary() for _ in ways]
        self._h.addConstr(sum(chosen) == 1)
        offered = sum(way.ran_sms * var for way, var in zip(ways, chosen, strict=True))
        cells = []
        for cell in self._fleet.cells:
            if gpu.site in cell.sites:
                moved = self._fleet.is_cell_move(cell, gpu.uuid)
                worth = self._fleet.cell_weight - self._fleet.cell_move_cost * moved
                var = self._h.addBinary(obj=worth)
                self._ran[cell.id, gpu.uuid] = var
                cells.append(sms_on(cell.sms, gpu) * var)
        if cells:
            self._h.addConstr(sum(cells) <= offered)
        if gpu.ran_floor_sms:
            self._h.addConstr(offered >= gpu.ran_floor_sms)
        counts = [_sizes(way) for way in ways]
        for size in dict.fromkeys(size for count in counts for size in count):
            most = max(count[size] for count in counts)
            there = sum(count[size] * var for count, var in zip(counts, chosen, strict=True))
            self._fill(_Slot(gpu, *size, 0), most, there)

    def _fill(self, first: _Slot, most: int, there: Any) -> None:
        """`most` slots of a size, of which as many are open as the division has."""
        is_open = [self._h.addBinary() for _ in range(most)]
        self._h.addConstr(sum(is_open) == there)
        for number, var in enumerate(is_open):
            if number:
                self._h.addConstr(var <= is_open[number - 1])
            slot = replace(first, number=number)
            inside = list(self._engines_in(slot))
            if not inside:
                continue
            self._h.addConstr(sum(need * one for need, _, one in inside) <= slot.sms * var)
            self._h.addConstr(sum(need * one for _, need, one in inside) <= slot.mib * var)

    def _engines_in(self, slot: _Slot) -> Iterator[tuple[int, int, Any]]:
        for engine in self._fleet.engines:
            sms = sms_on(engine.sms, slot.gpu)
            fits = sms <= slot.sms and engine.memory_mib <= slot.mib
            if fits and slot.gpu.site in engine.sites:
                moved = self._fleet.is_engine_move(engine, slot.gpu.uuid, slot.kept)
                worth = engine.value * (1.0 - self._fleet.engine_move_cost * moved)
                worth += self._fleet.reserved_weight * engine.is_reserved
                var = self._h.addBinary(obj=worth)
                self._engine[engine.id, slot] = var
                yield sms, engine.memory_mib, var

    def _once(self) -> None:
        """Everything runs in one place at most."""
        places: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for (cell, _), var in self._ran.items():
            places["cell", cell].append(var)
        for (engine, _), var in self._engine.items():
            places["engine", engine].append(var)
        for found in places.values():
            self._h.addConstr(sum(found) <= 1)

    def _spread(self) -> None:
        """Crowded groups cost, or are not allowed."""
        node_of = {gpu.uuid: (gpu.site, gpu.node) for gpu in self._fleet.gpus}
        group_of = {cell.id: cell.group for cell in self._fleet.cells}
        there: dict[tuple[str, Any], list[Any]] = defaultdict(list)
        for (cell, gpu), var in self._ran.items():
            if group_of[cell]:
                there[group_of[cell], node_of[gpu]].append(var)
        for (group, _), found in there.items():
            cap, limit = self._fleet.group_caps[group], self._fleet.max_per_node.get(group)
            if limit is not None:
                self._h.addConstr(sum(found) <= limit)
            if len(found) > cap:
                over = self._h.addVariable(0, len(found), obj=-self._fleet.spread_penalty)
                self._h.addConstr(sum(found) - over <= cap)


def _sizes(way: Division) -> Counter[tuple[int, int, Placement | None]]:
    """How many slots of each kind it has."""
    pairs = zip(way.parts, way.placements, strict=True)
    return Counter((*size, where if where in way.kept else None) for size, where in pairs)
