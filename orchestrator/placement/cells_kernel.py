"""Cells on and off GPUs, compiled: one at a time, and rearranged over a few GPUs."""

# mypy: disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from orchestrator.placement.state_kernel import draw, level


@njit(nogil=True, cache=True)
def cell_cost(t: Any, s: Any, c: int, g: int) -> float:
    """What putting the cell there costs, moves and crowding; infinite if it cannot be."""
    if not t.cell_ok[c, t.site[g]]:
        return np.inf
    need = t.cell_sms[c, t.speed[g]]
    if s.used[g] + need > t.most_ran[t.kind[g]]:
        return np.inf
    cost = 0.0
    if t.cell_gpu[c] >= 0 and t.cell_gpu[c] != g:
        cost += t.costs[1]
    group = t.cell_group[c]
    if group >= 0:
        there = s.crowd[t.node[g], group]
        if there >= t.group_limit[group]:
            return np.inf
        if there >= t.group_cap[group]:
            cost += t.costs[0]
    return cost


@njit(nogil=True, cache=True)
def put_cell(t: Any, s: Any, c: int, g: int) -> float:
    """Puts the cell there; returns what the score gains."""
    cost = cell_cost(t, s, c, g)
    s.cell[c] = g
    s.used[g] += t.cell_sms[c, t.speed[g]]
    if t.cell_group[c] >= 0:
        s.crowd[t.node[g], t.cell_group[c]] += 1
    return t.costs[2] - cost


@njit(nogil=True, cache=True)
def _take_cell(t: Any, s: Any, c: int) -> float:
    """Takes the cell off; returns what the score loses."""
    g = s.cell[c]
    s.used[g] -= t.cell_sms[c, t.speed[g]]
    if t.cell_group[c] >= 0:
        s.crowd[t.node[g], t.cell_group[c]] -= 1
    lost = t.costs[2] - cell_cost(t, s, c, g)
    s.cell[c] = -1
    return lost


@njit(nogil=True, cache=True)
def best_gpu(t: Any, s: Any, c: int, gpus: Any, n_gpus: int) -> int:
    """Where the cell costs the AI the fewest SMs; -1 if it fits nowhere."""
    best, best_cost = -1, np.inf
    for index in range(n_gpus):
        g = gpus[index]
        cost = cell_cost(t, s, c, g)
        if cost == np.inf:
            continue
        need = t.cell_sms[c, t.speed[g]]
        before = t.level_ai[level(t, g, s.used[g])]
        row = level(t, g, s.used[g] + need)
        left = t.level_ran[row] - s.used[g] - need
        cost += 0.05 * (before - t.level_ai[row]) + 1e-4 * left
        if cost < best_cost:
            best, best_cost = g, cost
    return best


@njit(nogil=True, cache=True)
def move_cells(t: Any, s: Any, gpus: Any, n_gpus: int, random: Any) -> float:
    """Takes all or some cells off the GPUs and puts them back; returns the score's change."""
    change, n = 0.0, 0
    part = 1 + draw(random, 3)
    for c in range(len(s.cell)):
        here = s.cell[c] < 0
        for index in range(n_gpus):
            here = here or (s.cell[c] == gpus[index] and draw(random, part) == 0)
        if here:
            if s.cell[c] >= 0:
                change -= _take_cell(t, s, c)
            s.moving[n] = c
            n += 1
    for index in range(n):  # shuffled
        other = index + draw(random, n - index)
        s.moving[index], s.moving[other] = s.moving[other], s.moving[index]
    if draw(random, 4) != 0:
        for index in range(n):
            c = s.moving[index]
            home = t.cell_gpu[c]
            stays = home >= 0 and s.chosen[home] and draw(random, 8) != 0
            if stays and cell_cost(t, s, c, home) < np.inf:
                change += put_cell(t, s, c, home)
    if draw(random, 3) != 0:
        change += _fill_levels(t, s, gpus, n_gpus, n, random)
    for index in range(n):
        c = s.moving[index]
        if s.cell[c] < 0:
            g = best_gpu(t, s, c, gpus, n_gpus)
            if g >= 0:
                change += put_cell(t, s, c, g)
    return change


@njit(nogil=True, cache=True)
def _fill_levels(t: Any, s: Any, gpus: Any, n_gpus: int, n: int, random: Any) -> float:
    """Fills each GPU with moving cells up to what a division drawn for it gives the RAN."""
    change = 0.0
    start = draw(random, n_gpus)
    for step in range(n_gpus):
        g = gpus[(start + step) % n_gpus]
        kind = t.kind[g]
        first = t.level_first[kind]
        last = t.level_first[kind + 1] if kind + 1 < len(t.level_first) else len(t.level_ran)
        most = t.level_ran[first + draw(random, last - first)]
        for index in range(n):
            c = s.moving[index]
            fits = s.used[g] + t.cell_sms[c, t.speed[g]] <= most
            if s.cell[c] < 0 and fits and cell_cost(t, s, c, g) < np.inf:
                change += put_cell(t, s, c, g)
    return change
