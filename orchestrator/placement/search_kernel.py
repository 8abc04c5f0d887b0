"""Construction and large-neighbourhood search over the fleet's tables, compiled.

A neighbourhood is a few GPUs: their engines are taken off (at times their cells too), each gets
a division that its cells allow, and the engines go back in an order drawn from several. A worse
outcome is kept while it is within a threshold that falls to nothing; the best is remembered.
Deterministic: the draws come from a seeded generator.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from orchestrator.placement.cells_kernel import (
    best_gpu,
    cell_cost,
    gather_cells,
    move_cells,
    put_cell,
)
from orchestrator.placement.engines_kernel import fill, put_back, put_engine, take_engines
from orchestrator.placement.state_kernel import copy, draw, keeping, level, set_division

_ORDERS = 4


@njit(nogil=True, cache=True)
def construct(t: Any, s: Any, cell_order: Any, orders: Any, random: Any) -> float:
    """A first placement: cells stay where they may, the others and the engines follow."""
    n_gpus = len(t.kind)
    gpus = np.arange(n_gpus)
    score = 0.0
    for index in range(len(cell_order)):
        c = cell_order[index]
        g = t.cell_gpu[c]
        if g >= 0 and cell_cost(t, s, c, g) < np.inf:
            score += put_cell(t, s, c, g)
    for index in range(len(cell_order)):
        c = cell_order[index]
        if s.cell[c] < 0:
            g = best_gpu(t, s, c, gpus, n_gpus)
            if g >= 0:
                score += put_cell(t, s, c, g)
    for g in range(n_gpus):
        set_division(t, s, g, keeping(t, g, level(t, g, s.used[g])))
    # Engines that run stay first; a running engine never gives way to one of its own worth.
    for index in range(len(orders[0])):
        e = orders[0][index]
        if t.engine_gpu[e] >= 0:
            own = gpus[t.engine_gpu[e] : t.engine_gpu[e] + 1]
            score += put_engine(t, s, e, own, 1)
    return score + fill(t, s, gpus, n_gpus, orders[0], 0, random)


@njit(nogil=True, cache=True)
def _neighbourhood(t: Any, gpus: Any, size: int, random: Any) -> int:
    """Draws GPUs, mostly of one site; returns how many."""
    n_gpus = len(t.kind)
    gpus[0] = draw(random, n_gpus)
    near = draw(random, 4) != 0
    found = 1
    for _ in range(4 * size):
        if found == size:
            break
        g = draw(random, n_gpus)
        is_new = not near or t.site[g] == t.site[gpus[0]]
        for index in range(found):
            is_new = is_new and gpus[index] != g
        if is_new:
            gpus[found] = g
            found += 1
    return found


@njit(nogil=True, cache=True)
def _step(t: Any, s: Any, gpus: Any, orders: Any, random: Any) -> float:
    """One neighbourhood torn down and built again; returns the score's change."""
    n_gpus = _neighbourhood(t, gpus, 1 + draw(random, min(4, len(t.kind))), random)
    for index in range(n_gpus):
        s.chosen[gpus[index]] = True
    # Half of the time only some engines go, and everything else stays as it is.
    part = 0 if draw(random, 2) == 0 else 2 + draw(random, 4)
    change = -take_engines(t, s, part, random)
    if not part:
        if len(s.cell) and draw(random, 2) == 0:
            if n_gpus > 1 and draw(random, 2) == 0:
                change += gather_cells(t, s, gpus, n_gpus, random)
            else:
                change += move_cells(t, s, gpus, n_gpus, random)
        for index in range(n_gpus):
            g = gpus[index]
            row = level(t, g, s.used[g])
            first, last = t.choice_first[row], t.choice_first[row + 1]
            if t.n_running[0] and draw(random, 2) == 0:
                set_division(t, s, g, keeping(t, g, row))
            else:
                set_division(t, s, g, t.choice[first + draw(random, last - first)])
        if t.n_running[0] and draw(random, 2) == 0:
            change += put_back(t, s, orders[0], random)
    for index in range(n_gpus):
        s.chosen[gpus[index]] = False
    order = orders[draw(random, _ORDERS)]
    skip = 0 if draw(random, 4) == 0 else 3 + draw(random, 12)
    return change + fill(t, s, gpus, n_gpus, order, skip, random)


@njit(nogil=True, cache=True)
def improve(
    t: Any, s: Any, old: Any, best: Any, orders: Any, n_steps: int, threshold: float, random: Any
) -> float:
    """Searches for `n_steps` from `s`; leaves the best placement in `best`, returns its gain."""
    gpus = np.zeros(8, np.int64)
    now, highest = 0.0, 0.0
    copy(best, s)
    copy(old, s)
    for step in range(n_steps):
        change = _step(t, s, gpus, orders, random)
        allowed = threshold * (1.0 - step / n_steps) * (1.0 - step / n_steps)
        if change < -allowed:
            copy(s, old)
            continue
        now += change
        copy(old, s)
        if now > highest + 1e-9:
            highest = now
            copy(best, s)
    return highest
