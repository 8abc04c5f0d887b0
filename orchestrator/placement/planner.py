"""The production planner: construction, then a bounded search. Pure and deterministic."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np

from airan.core.errors import InvalidInputError
from orchestrator.placement.model import EnginePlace, Fleet, FleetEngine, FleetPlan, weight, worth
from orchestrator.placement.reasons import why_unplaced
from orchestrator.placement.tables import Tables, tables_of
from phy.jit import kernels

_NEVER = 1 << 40

_Table = namedtuple(
    "_Table",
    "kind part_sms part_mib part_place floor site node speed cell_sms cell_ok cell_gpu"
    " cell_group group_cap group_limit engine_sms engine_mib engine_value engine_moved engine_ok"
    " engine_gpu engine_place home_value costs most_ran level_first level_ran level_ai"
    " choice_first choice weight engine_least n_running",
)
_State = namedtuple(
    "_State", "cell engine part division used crowd free_sms free_mib waiting moving slot chosen"
)


@dataclass(frozen=True)
class PlannerSettings:
    """How long the planner searches."""

    effort: float = 1.0
    """Times the usual number of steps."""
    most_steps: int = 30_000
    work: int = 18_000_000
    """Steps times what there is to place are limited to it."""
    round_steps: int = 8_000
    threshold: float = 1.0
    """How much worse a step may leave the placement at first, in mean engine values."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.effort >= 0.0:
            raise InvalidInputError("effort", f"must not be negative, got {self.effort}")

    def rounds(self, n_placed: int) -> tuple[int, int]:
        """How many rounds of how many steps for so many cells, engines and GPUs."""
        n_steps = int(self.effort * min(self.most_steps, self.work // max(1, n_placed)))
        n_rounds = max(1, n_steps // self.round_steps)
        return n_rounds, n_steps // n_rounds


def place(fleet: Fleet, settings: PlannerSettings | None = None) -> FleetPlan:
    """Where every cell and engine of the fleet should run.

    As many cells as possible come first, then the reserved engines, then the value of the others
    less what moves and crowded groups cost: `FleetPlan.score` in one number.
    """
    settings = settings or PlannerSettings()
    if not fleet.gpus:
        return _plan_of(fleet, None, (), (), (), ())
    tables = tables_of(fleet)
    table = _kernel_table(tables)
    run = kernels("orchestrator.placement.search_kernel")
    state, old, found, best = (_empty_state(tables) for _ in range(4))
    random = np.array([settings.seed * 0x9E3779B97F4A7C15 % (1 << 64) or 1], np.uint64)
    orders = _orders(tables)
    first = run.construct(table, state, _cell_order(tables), orders, random)
    n_engines = max(1, len(fleet.engines))
    mean = sum(one.value for one in fleet.engines) / n_engines
    highest = -np.inf
    n_rounds, n_steps = settings.rounds(len(fleet.engines) + len(fleet.cells) + len(fleet.gpus))
    start = _empty_state(tables)
    run.copy(start, state)
    for number in range(n_rounds):
        # From the first placement, and every other time from the best so far.
        again = best if number % 2 else start
        base = highest if number % 2 else first
        run.copy(state, again)
        threshold = settings.threshold * mean
        gain = run.improve(table, state, old, found, orders, n_steps, threshold, random)
        if base + gain > highest:
            highest = base + gain
            run.copy(best, found)
    return _plan_of(fleet, tables, best.cell, best.engine, best.part, best.division)


def _kernel_table(tables: Tables) -> Any:
    """The tables with, for each GPU kind and need of its cells, the divisions worth trying."""
    level_first: list[int] = []
    level_ran: list[int] = []
    level_ai: list[int] = []
    choice_first, choice = [0], list[int]()
    part_sum = tables.part_sms.sum(axis=1)
    n_kinds = len(tables.first) - 1
    for kind in range(n_kinds):
        level_first.append(len(level_ran))
        for level in tables.levels_of[kind]:
            own = [int(tables.first[kind]) + one for one in level.choices]
            level_ran.append(level.ran_sms)
            level_ai.append(int(part_sum[own[0]]))
            choice += own
            choice_first.append(len(choice))
    most_ran = [
        int(tables.division_ran[tables.first[kind] : tables.first[kind + 1]].max())
        for kind in range(n_kinds)
    ]
    mean_sms = max(1.0, float(tables.part_sms[tables.part_sms > 0].mean()))
    mean_mib = max(1.0, float(tables.part_mib[tables.part_mib > 0].mean()))
    fields = {name: getattr(tables, name) for name in _Table._fields if hasattr(tables, name)}
    return _Table(
        **fields,
        most_ran=np.array(most_ran, np.int64),
        level_first=np.array(level_first, np.int64),
        level_ran=np.array(level_ran, np.int64),
        level_ai=np.array(level_ai, np.int64),
        choice_first=np.array(choice_first, np.int64),
        choice=np.array(choice, np.int64),
        weight=np.array([1.0 / mean_sms, 1.0 / mean_mib]),
        engine_least=tables.engine_sms.min(axis=1, initial=_NEVER),
        n_running=np.array([int((tables.engine_gpu >= 0).sum())], np.int64),
    )


def _empty_state(tables: Tables) -> Any:
    n_gpus, n_cells, n_engines = len(tables.kind), len(tables.cell_gpu), len(tables.engine_gpu)
    parts = tables.part_sms.shape[1]
    return _State(
        cell=np.full(n_cells, -1, np.int64),
        engine=np.full(n_engines, -1, np.int64),
        part=np.zeros(n_engines, np.int64),
        division=np.zeros(n_gpus, np.int64),
        used=np.zeros(n_gpus, np.int64),
        crowd=np.zeros((tables.n_nodes, max(1, len(tables.group_cap))), np.int64),
        free_sms=np.zeros((n_gpus, parts), np.int64),
        free_mib=np.zeros((n_gpus, parts), np.int64),
        waiting=np.zeros(n_engines, np.int64),
        moving=np.zeros(n_cells, np.int64),
        slot=np.zeros(n_cells, np.int64),
        chosen=np.zeros(n_gpus, np.bool_),
    )


def _cell_order(tables: Tables) -> Any:
    """Cells with the fewest GPUs to go to first, then the largest."""
    n_allowed = tables.cell_ok[:, tables.site].sum(axis=1)
    largest = tables.cell_sms.max(axis=1, initial=0)
    return np.lexsort((-largest, n_allowed)).astype(np.int64)


def _orders(tables: Tables) -> Any:
    """Engines by worth for what they take: of the scarcer of the two, SMs, memory, at all."""
    value = tables.engine_value
    sms = tables.engine_sms.max(axis=1, initial=1) / max(1, tables.part_sms.sum(axis=1).max())
    mib = tables.engine_mib / max(1, int(tables.part_mib.sum(axis=1).max()))
    by = (value / np.maximum(sms, mib), value / sms, value / mib, value)
    return np.array([np.argsort(-one, kind="stable") for one in by], np.int64)


def _plan_of(
    fleet: Fleet, tables: Tables | None, cell: Any, engine: Any, part: Any, division: Any
) -> FleetPlan:
    names = [gpu.uuid for gpu in fleet.gpus]
    cells = {one.id: names[g] for one, g in zip(fleet.cells, cell, strict=False) if g >= 0}
    engines: dict[str, EnginePlace] = {}
    divided: dict[str, tuple[Any, ...]] = {}
    if tables is not None:
        chosen = [tables.division_of[int(one)] for one in division]
        for uuid, one in zip(names, chosen, strict=True):
            divided[uuid] = tuple(zip(one.option.layout, one.option.roles, strict=True))
        for wanted, g, p in zip(fleet.engines, engine, part, strict=True):
            if g >= 0:
                engines[wanted.id] = EnginePlace(names[g], chosen[g].placements[p])
    net = worth(fleet, cells, engines)
    return FleetPlan(
        divisions=divided,
        cells=cells,
        engines=engines,
        unplaced=why_unplaced(fleet, cells, engines),
        moved_cells=tuple(
            one.id for one in fleet.cells if one.gpu and cells.get(one.id, one.gpu) != one.gpu
        ),
        moved_engines=tuple(
            one.id for one in fleet.engines if one.id in engines and _differs(one, engines[one.id])
        ),
        score=weight(fleet, cells, engines) + net,
        worth=net,
    )


def _differs(engine: FleetEngine, where: EnginePlace) -> bool:
    """Whether the engine runs elsewhere now, be its GPU gone or not."""
    if not engine.gpu:
        return False
    return engine.gpu != where.gpu or engine.partition not in (None, where.placement)
