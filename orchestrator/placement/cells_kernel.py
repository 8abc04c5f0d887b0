"""Cells on and off GPUs, compiled: one at a time, and rearranged over a few GPUs."""

# mypy: disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from orchestrator.placement.state_kernel import draw, level

_LEVEL_DRAWS = 4
_TRIES = 12


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
def take_cell(t: Any, s: Any, c: int) -> float:
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
                change -= take_cell(t, s, c)
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
def gather_cells(t: Any, s: Any, gpus: Any, n_gpus: int, random: Any) -> float:
    """Moves and swaps cells between the GPUs until each holds at most what a division drawn for
    it gives the RAN, or for so many tries; returns the score's change."""
    most = np.zeros(n_gpus, np.int64)
    if not _draw_levels(t, s, gpus, n_gpus, most, random):
        return 0.0
    change, n = 0.0, 0
    for c in range(len(s.cell)):
        for index in range(n_gpus):
            if s.cell[c] == gpus[index]:
                s.moving[n], s.slot[n] = c, index
                n += 1
    for _ in range(_TRIES):
        over = 0
        for index in range(n_gpus):
            over += max(0, s.used[gpus[index]] - most[index])
        if not over:
            break
        done = _exchange(t, s, gpus, n_gpus, most, n, random)
        if done == -np.inf:
            break
        change += done
    for c in range(len(s.cell)):
        if s.cell[c] < 0:
            g = best_gpu(t, s, c, gpus, n_gpus)
            if g >= 0:
                change += put_cell(t, s, c, g)
    return change


@njit(nogil=True, cache=True)
def _draw_levels(t: Any, s: Any, gpus: Any, n_gpus: int, most: Any, random: Any) -> bool:
    """Draws for each GPU what a division gives its RAN, into `most`; whether all cells on them
    could fit by that. Of several draws, that which leaves the AI most."""
    there = 0
    for index in range(n_gpus):
        there += s.used[gpus[index]]
    drawn = np.zeros(n_gpus, np.int64)
    found = -1
    for _ in range(_LEVEL_DRAWS):
        ran, ai = 0, 0
        for index in range(n_gpus):
            row = _any_level(t, gpus[index], random)
            drawn[index] = t.level_ran[row]
            ran += drawn[index]
            ai += t.level_ai[row]
        if ran >= there and ai > found:
            found = ai
            most[:n_gpus] = drawn
    return found >= 0


@njit(nogil=True, cache=True)
def _any_level(t: Any, g: int, random: Any) -> int:
    """One of the rows of choices for the GPU that keep its floor."""
    first = level(t, g, 0)
    kind = t.kind[g]
    last = t.level_first[kind + 1] if kind + 1 < len(t.level_first) else len(t.level_ran)
    return first + draw(random, last - first)


@njit(nogil=True, cache=True)
def _exchange(t: Any, s: Any, gpus: Any, n_gpus: int, most: Any, n: int, random: Any) -> float:
    """Takes from a GPU with too many cells one of them, for one of another's or for none: mostly
    that which leaves the fewest SMs too many. Returns the score's change, minus infinity if none
    may be exchanged."""
    first, start = 0, draw(random, n_gpus)
    for step in range(n_gpus):
        first = (start + step) % n_gpus
        if s.used[gpus[first]] > most[first]:
            break
    one, other = _best_pair(t, s, gpus, n_gpus, most, n, first, random)
    if one < 0:
        return -np.inf
    c, d = s.moving[one], s.moving[other] if other < n else -1
    to = s.slot[other] if other < n else other - n
    change = -take_cell(t, s, c)
    s.slot[one] = to
    if d >= 0:
        change -= take_cell(t, s, d)
        s.slot[other] = first
        change += put_cell(t, s, d, gpus[first])
    return change + put_cell(t, s, c, gpus[to])


@njit(nogil=True, cache=True)
def _best_pair(
    t: Any, s: Any, gpus: Any, n_gpus: int, most: Any, n: int, first: int, random: Any
) -> Any:
    """The cell to take from GPU number `first`, and the other cell to exchange it for or, from `n`
    on, the GPU to put it on; -1 if there is none."""
    # Looked at pair by pair: what is called with all the tables here would take ten times as long.
    sms, speed, ok, site, node = t.cell_sms, t.speed, t.cell_ok, t.site, t.node
    group, cap, limit, home = t.cell_group, t.group_cap, t.group_limit, t.cell_gpu
    used, moving, slot, crowd, highest = s.used, s.moving, s.slot, s.crowd, t.most_ran
    penalty, move_cost = t.costs[0], t.costs[1]
    a = gpus[first]
    best_one, best_other, best_cost = -1, -1, np.inf
    for one in range(n):
        c = moving[one]
        if slot[one] != first:
            continue
        for other in range(n + n_gpus):
            to = slot[other] if other < n else other - n
            b = gpus[to]
            if to == first or not ok[c, site[b]]:
                continue
            used_a, used_b = used[a] - sms[c, speed[a]], used[b] + sms[c, speed[b]]
            d = moving[other] if other < n else -1
            if d >= 0:
                used_a += sms[d, speed[a]]
                used_b -= sms[d, speed[b]]
                if not ok[d, site[a]] or used_a > highest[t.kind[a]]:
                    continue
            if used_b > highest[t.kind[b]]:
                continue
            cost = 1.0 * (max(0, used_a - most[first]) - used[a] + most[first])
            cost += max(0, used_b - most[to]) - max(0, used[b] - most[to])
            if cost >= best_cost:
                continue
            cost += 0.1 * draw(random, 20) + _moves(home, move_cost, c, a, b)
            same = node[a] == node[b] or (d >= 0 and group[c] == group[d])
            if not same:
                cost += penalty * _crowding(crowd, cap, limit, group[c], node[a], node[b])
            if d >= 0:
                cost += _moves(home, move_cost, d, b, a)
                if not same:
                    cost += penalty * _crowding(crowd, cap, limit, group[d], node[b], node[a])
            if cost < best_cost:
                best_one, best_other, best_cost = one, other, cost
    return best_one, best_other


@njit(nogil=True, cache=True)
def _moves(home: Any, cost: float, c: int, old: int, new: int) -> float:
    """What more the cell's move costs on the new GPU than on the old."""
    if home[c] < 0:
        return 0.0
    return cost * ((home[c] != new) - (home[c] != old))


@njit(nogil=True, cache=True)
def _crowding(crowd: Any, cap: Any, limit: Any, group: int, old: int, new: int) -> float:
    """How many more cells of the group are too many once one goes from node `old` to `new`;
    infinite if it may not."""
    if group < 0:
        return 0.0
    if crowd[new, group] >= limit[group]:
        return np.inf
    return 1.0 * (crowd[new, group] >= cap[group]) - (crowd[old, group] > cap[group])


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
