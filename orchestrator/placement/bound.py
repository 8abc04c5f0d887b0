"""What no plan of a large fleet can be worth more than: a linear programme, solved by HiGHS.

GPUs that are alike at one site are taken together, and so are engines with the same needs that
may run at the same sites. Divisions and engines may be broken into fractions; what is left of the
whole numbers is that a small partition never holds more engines than it has room for. Costs of
moves and of crowded groups are left out, which only raises the bound.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import highspy

from airan.core.errors import UnavailableError
from orchestrator.geometry import Geometry
from orchestrator.placement.model import Fleet, FleetEngine, FleetGpu, sms_on
from orchestrator.placement.tables import divisions


class _Pool(NamedTuple):
    """GPUs that are alike."""

    site: str
    geometry: Geometry
    speed: float
    ran_floor_sms: int


class _Need(NamedTuple):
    """What engines that are alike need."""

    sms: int
    memory_mib: int
    sites: frozenset[str]


def upper_bound(fleet: Fleet, n_cells: int, limit_s: float = 120.0) -> float:
    """What the engines can be worth at most beside `n_cells` of the cells; see `FleetPlan.worth`.

    Raises:
        UnavailableError: HiGHS has not solved it within `limit_s`.
    """
    return _Relaxation(fleet, n_cells).solve(limit_s)


class _Relaxation:
    """Variables and rows."""

    def __init__(self, fleet: Fleet, n_cells: int) -> None:
        self._h = highspy.Highs()
        self._h.setOptionValue("output_flag", False)
        self._h.setOptionValue("threads", 1)
        self._engines = _alike(fleet)
        self._cells = Counter((cell.sms, cell.sites) for cell in fleet.cells)
        self._placed: dict[Any, list[Any]] = defaultdict(list)
        self._hosted: dict[_Need, list[Any]] = defaultdict(list)
        for pool, gpus in _pools(fleet).items():
            self._divide(pool, gpus)
        for need, engines in self._engines.items():
            each = [self._h.addVariable(0.0, 1.0, obj=one.value) for one in engines]
            self._h.addConstr(sum(each) <= sum(self._hosted[need], 0.0 * each[0]))
        for kind, count in self._cells.items():
            if self._placed[kind]:
                self._h.addConstr(sum(self._placed[kind]) <= count)
        everywhere = [one for found in self._placed.values() for one in found]
        if everywhere:
            self._h.addConstr(sum(everywhere) >= n_cells)

    def solve(self, limit_s: float) -> float:
        h = self._h
        h.setOptionValue("time_limit", limit_s)
        h.setMaximize()
        h.run()
        if h.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise UnavailableError(
                f"HiGHS has not solved the bound within {limit_s:g} s", remedy="give it more time"
            )
        return float(h.getInfo().objective_function_value)

    def _divide(self, pool: _Pool, gpus: list[FleetGpu]) -> None:
        ways = [way for way in divisions(pool.geometry) if way.ran_sms >= pool.ran_floor_sms]
        chosen = [self._h.addVariable(0.0, len(gpus)) for _ in ways]
        self._h.addConstr(sum(chosen) == len(gpus))
        ran = []
        for sms, sites in self._cells:
            if pool.site in sites:
                here = self._h.addVariable(0.0, highspy.kHighsInf)
                self._placed[sms, sites].append(here)
                ran.append(sms_on(sms, gpus[0]) * here)
        if ran:
            pairs = zip(ways, chosen, strict=True)
            self._h.addConstr(sum(ran) <= sum(way.ran_sms * var for way, var in pairs))
        counts = [Counter(way.parts) for way in ways]
        for size in sorted({part for count in counts for part in count}):
            there = sum(
                count[size] * var for count, var in zip(counts, chosen, strict=True) if count[size]
            )
            self._fill(gpus[0], size, there)

    def _fill(self, gpu: FleetGpu, size: tuple[int, int], there: Any) -> None:
        """The engines in all partitions of this size together."""
        inside = []
        for need in self._engines:
            sms = sms_on(need.sms, gpu)
            if gpu.site in need.sites and sms <= size[0] and need.memory_mib <= size[1]:
                var = self._h.addVariable(0.0, highspy.kHighsInf)
                self._hosted[need].append(var)
                inside.append((sms, need.memory_mib, var))
        self._cut([(sms, var) for sms, _, var in inside], size[0], there)
        self._cut([(mib, var) for _, mib, var in inside], size[1], there)

    def _cut(self, inside: list[tuple[int, Any]], room: int, there: Any) -> None:
        """Rows that hold for every way to fill one partition, and so for all of them together."""
        if not inside:
            return
        self._h.addConstr(sum(need * var for need, var in inside) <= room * there)
        for step in sorted({need for need, _ in inside}):
            # As many whole steps as an engine needs, of the whole steps that there are.
            steps = [(need // step, var) for need, var in inside if need >= step]
            self._h.addConstr(sum(n * var for n, var in steps) <= (room // step) * there)


def _alike(fleet: Fleet) -> dict[_Need, list[FleetEngine]]:
    found: dict[_Need, list[FleetEngine]] = defaultdict(list)
    here = {gpu.site for gpu in fleet.gpus}
    for engine in fleet.engines:
        found[_Need(engine.sms, engine.memory_mib, engine.sites & here)].append(engine)
    return found


def _pools(fleet: Fleet) -> dict[_Pool, list[FleetGpu]]:
    found: dict[_Pool, list[FleetGpu]] = defaultdict(list)
    for gpu in fleet.gpus:
        found[_Pool(gpu.site, gpu.geometry, gpu.speed, gpu.ran_floor_sms)].append(gpu)
    return found
