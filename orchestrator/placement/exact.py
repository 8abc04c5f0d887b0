"""The fleet's placement as a mixed-integer programme, solved by HiGHS: the oracle for small cases.

A GPU's division is one binary a way to divide it; an engine goes to a slot, which is a partition
size of a GPU that is there as often as the division has it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import highspy

from airan.core.errors import UnavailableError
from orchestrator.placement.model import Fleet, FleetGpu, sms_on
from orchestrator.placement.tables import divisions


@dataclass(frozen=True)
class Optimum:
    """The best there is, or a bound of it."""

    cells: dict[str, str]
    """GPU by cell."""
    engines: dict[str, str]
    """GPU by engine."""
    score: float
    """As `FleetPlan.score`."""
    bound: float
    """No placement of as many cells has a higher score."""
    solve_s: float


@dataclass(frozen=True)
class _Slot:
    gpu: FleetGpu
    sms: int
    mib: int
    number: int
    """Of the slots of this size on this GPU."""


def solve(fleet: Fleet, limit_s: float = 60.0, gap: float = 1e-7) -> Optimum:
    """The best placement.

    Raises:
        UnavailableError: HiGHS found no placement within `limit_s`.
    """
    return _Programme(fleet).solve(limit_s, gap)


class _Programme:
    """Variables and rows."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._h = highspy.Highs()
        self._h.setOptionValue("output_flag", False)
        self._h.setOptionValue("threads", 1)
        most = sum(engine.value for engine in fleet.engines)
        moves = len(fleet.cells) * (fleet.cell_move_cost + fleet.spread_penalty)
        self._cell_weight = 1.0 + most + moves
        self._ran: dict[tuple[str, str], Any] = {}
        self._engine: dict[tuple[str, _Slot], Any] = {}
        for gpu in fleet.gpus:
            self._divide(gpu)
        self._once()
        self._spread()

    def solve(self, limit_s: float, gap: float) -> Optimum:
        h = self._h
        h.setOptionValue("time_limit", limit_s)
        h.setOptionValue("mip_rel_gap", gap)
        h.setOptionValue("mip_abs_gap", 1e-4)
        h.setMaximize()
        h.run()
        info = h.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            raise UnavailableError(f"HiGHS found no placement within {limit_s:g} s")
        values = h.getSolution().col_value
        cells = {c: g for (c, g), var in self._ran.items() if values[var.index] > 0.5}
        engines = {
            e: slot.gpu.uuid for (e, slot), var in self._engine.items() if values[var.index] > 0.5
        }
        constant = self._cell_weight * len(cells)
        return Optimum(
            cells,
            engines,
            info.objective_function_value - constant,
            info.mip_dual_bound - constant,
            h.getRunTime(),
        )

    def _divide(self, gpu: FleetGpu) -> None:
        """One division; its RAN part holds the cells, its AI parts the engines."""
        ways = divisions(gpu.geometry)
        chosen = [self._h.addBinary() for _ in ways]
        self._h.addConstr(sum(chosen) == 1)
        cells = []
        for cell in self._fleet.cells:
            if gpu.site in cell.sites:
                moved = self._fleet.is_move(cell.gpu, gpu.uuid)
                worth = self._cell_weight - self._fleet.cell_move_cost * moved
                var = self._h.addBinary(obj=worth)
                self._ran[cell.id, gpu.uuid] = var
                cells.append(sms_on(cell.sms, gpu) * var)
        if cells:
            offered = sum(way.ran_sms * var for way, var in zip(ways, chosen, strict=True))
            self._h.addConstr(sum(cells) <= offered)
        counts = [Counter(way.parts) for way in ways]
        for size in sorted({part for count in counts for part in count}):
            most = max(count[size] for count in counts)
            there = sum(count[size] * var for count, var in zip(counts, chosen, strict=True))
            self._fill(gpu, size, most, there)

    def _fill(self, gpu: FleetGpu, size: tuple[int, int], most: int, there: Any) -> None:
        """`most` slots of a size, of which as many are open as the division has."""
        sms, mib = size
        is_open = [self._h.addBinary() for _ in range(most)]
        self._h.addConstr(sum(is_open) == there)
        for number, var in enumerate(is_open):
            if number:
                self._h.addConstr(var <= is_open[number - 1])
            slot = _Slot(gpu, sms, mib, number)
            inside = list(self._engines_in(slot))
            if not inside:
                continue
            self._h.addConstr(sum(need * one for need, _, one in inside) <= sms * var)
            self._h.addConstr(sum(need * one for _, need, one in inside) <= mib * var)

    def _engines_in(self, slot: _Slot) -> Iterator[tuple[int, int, Any]]:
        for engine in self._fleet.engines:
            sms = sms_on(engine.sms, slot.gpu)
            fits = sms <= slot.sms and engine.memory_mib <= slot.mib
            if fits and slot.gpu.site in engine.sites:
                moved = self._fleet.is_move(engine.gpu, slot.gpu.uuid)
                worth = engine.value * (1.0 - self._fleet.engine_move_cost * moved)
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
        """Crowded groups cost."""
        node_of = {gpu.uuid: (gpu.site, gpu.node) for gpu in self._fleet.gpus}
        group_of = {cell.id: cell.group for cell in self._fleet.cells}
        there: dict[tuple[str, Any], list[Any]] = defaultdict(list)
        for (cell, gpu), var in self._ran.items():
            if group_of[cell]:
                there[group_of[cell], node_of[gpu]].append(var)
        for (group, _), found in there.items():
            cap = self._fleet.group_caps[group]
            if len(found) > cap:
                over = self._h.addVariable(0, len(found), obj=-self._fleet.spread_penalty)
                self._h.addConstr(sum(found) - over <= cap)
