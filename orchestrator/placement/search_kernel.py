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

_ORDERS = 4


@njit(nogil=True, cache=True)
def _draw(random: Any, n: int) -> int:
    """A number in [0, n)."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return int((x >> np.uint64(11)) % np.uint64(n))


@njit(nogil=True, cache=True)
def _level(t: Any, g: int, used: int) -> int:
    """The row of choices for a GPU whose cells need `used` SMs; the floor holds without them."""
    used = max(used, t.floor[g])
    kind = t.kind[g]
    row = t.level_first[kind]
    while t.level_ran[row] < used:
        row += 1
    return row


@njit(nogil=True, cache=True)
def _set_division(t: Any, s: Any, g: int, division: int) -> None:
    s.division[g] = division
    for p in range(t.part_sms.shape[1]):
        s.free_sms[g, p] = t.part_sms[division, p]
        s.free_mib[g, p] = t.part_mib[division, p]


@njit(nogil=True, cache=True)
def _cell_cost(t: Any, s: Any, c: int, g: int) -> float:
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
def _put_cell(t: Any, s: Any, c: int, g: int) -> float:
    """Puts the cell there; returns what the score gains."""
    cost = _cell_cost(t, s, c, g)
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
    lost = t.costs[2] - _cell_cost(t, s, c, g)
    s.cell[c] = -1
    return lost


@njit(nogil=True, cache=True)
def _worth(t: Any, s: Any, e: int, g: int, p: int) -> float:
    """What the engine is worth in that partition: less where it is not now, if it runs."""
    if t.engine_gpu[e] < 0:
        return t.engine_value[e]
    if t.engine_gpu[e] != g:
        return t.engine_moved[e]
    stays = t.engine_place[e] < 0 or t.part_place[s.division[g], p] == t.engine_place[e]
    return t.engine_value[e] if stays else t.engine_moved[e]


@njit(nogil=True, cache=True)
def _put_engine(t: Any, s: Any, e: int, gpus: Any, n_gpus: int) -> float:
    """Puts the engine where it is worth most and fits best; returns its worth, 0 if nowhere."""
    ok, site, speed, engine_sms = t.engine_ok, t.site, t.speed, t.engine_sms
    free_sms, free_mib = s.free_sms, s.free_mib
    mib, home, value = t.engine_mib[e], t.engine_gpu[e], t.engine_value[e]
    per_sm, per_mib = t.weight[0], t.weight[1]
    moved = t.engine_moved[e]
    best_g, best_p, best_worth, best_slack = -1, -1, 0.0, np.inf
    for index in range(n_gpus):
        g = gpus[index]
        if not ok[e, site[g]]:
            continue
        most = moved if home >= 0 and home != g else value
        if most < best_worth:
            continue
        sms = engine_sms[e, speed[g]]
        for p in range(free_sms.shape[1]):
            left_sms, left_mib = free_sms[g, p] - sms, free_mib[g, p] - mib
            if left_sms < 0 or left_mib < 0:
                continue
            worth = _worth(t, s, e, g, p) if home == g else most
            if worth < best_worth:
                continue
            slack = left_sms * per_sm + left_mib * per_mib
            if worth > best_worth or slack < best_slack:
                best_g, best_p, best_worth, best_slack = g, p, worth, slack
    if best_g < 0 or best_worth <= 0.0:
        return 0.0
    s.engine[e], s.part[e] = best_g, best_p
    free_sms[best_g, best_p] -= engine_sms[e, speed[best_g]]
    free_mib[best_g, best_p] -= mib
    return best_worth


@njit(nogil=True, cache=True)
def _largest(free: Any, gpus: Any, n_gpus: int) -> int:
    """The most that any partition of the GPUs has free."""
    most = 0
    for index in range(n_gpus):
        for p in range(free.shape[1]):
            most = max(most, free[gpus[index], p])
    return most


@njit(nogil=True, cache=True)
def _fill(t: Any, s: Any, gpus: Any, n_gpus: int, order: Any, skip: int, random: Any) -> float:
    """Puts engines that run nowhere on the GPUs, in that order; returns what the score gains.

    One in `skip` waits until the others are in; 0: none waits.
    """
    engine, least_sms, mib, waiting = s.engine, t.engine_least, t.engine_mib, s.waiting
    gained, n_waiting = 0.0, 0
    top_sms = _largest(s.free_sms, gpus, n_gpus)
    top_mib = _largest(s.free_mib, gpus, n_gpus)
    for index in range(len(order)):
        e = order[index]
        if engine[e] >= 0 or least_sms[e] > top_sms or mib[e] > top_mib:
            continue
        if skip and _draw(random, skip) == 0:
            waiting[n_waiting] = e
            n_waiting += 1
            continue
        worth = _put_engine(t, s, e, gpus, n_gpus)
        if worth > 0.0:
            gained += worth
            if n_gpus <= 8:
                top_sms = _largest(s.free_sms, gpus, n_gpus)
                top_mib = _largest(s.free_mib, gpus, n_gpus)
    for index in range(n_waiting):
        gained += _put_engine(t, s, waiting[index], gpus, n_gpus)
    return gained


@njit(nogil=True, cache=True)
def _best_gpu(t: Any, s: Any, c: int, gpus: Any, n_gpus: int) -> int:
    """Where the cell costs the AI the fewest SMs; -1 if it fits nowhere."""
    best, best_cost = -1, np.inf
    for index in range(n_gpus):
        g = gpus[index]
        cost = _cell_cost(t, s, c, g)
        if cost == np.inf:
            continue
        need = t.cell_sms[c, t.speed[g]]
        before = t.level_ai[_level(t, g, s.used[g])]
        row = _level(t, g, s.used[g] + need)
        left = t.level_ran[row] - s.used[g] - need
        cost += 0.05 * (before - t.level_ai[row]) + 1e-4 * left
        if cost < best_cost:
            best, best_cost = g, cost
    return best


@njit(nogil=True, cache=True)
def _keeping(t: Any, g: int, row: int) -> int:
    """Of the row's divisions, that which keeps the most value where it runs; else the largest."""
    best, most = t.choice[t.choice_first[row]], 0.0
    for index in range(t.choice_first[row], t.choice_first[row + 1]):
        kept = 0.0
        for p in range(t.part_place.shape[1]):
            place = t.part_place[t.choice[index], p]
            if place >= 0:
                kept += t.home_value[g, place]
        if kept > most:
            best, most = t.choice[index], kept
    return best


@njit(nogil=True, cache=True)
def construct(t: Any, s: Any, cell_order: Any, orders: Any, random: Any) -> float:
    """A first placement: cells stay where they may, the others and the engines follow."""
    n_gpus = len(t.kind)
    gpus = np.arange(n_gpus)
    score = 0.0
    for index in range(len(cell_order)):
        c = cell_order[index]
        g = t.cell_gpu[c]
        if g >= 0 and _cell_cost(t, s, c, g) < np.inf:
            score += _put_cell(t, s, c, g)
    for index in range(len(cell_order)):
        c = cell_order[index]
        if s.cell[c] < 0:
            g = _best_gpu(t, s, c, gpus, n_gpus)
            if g >= 0:
                score += _put_cell(t, s, c, g)
    for g in range(n_gpus):
        _set_division(t, s, g, _keeping(t, g, _level(t, g, s.used[g])))
    # Engines that run stay first; a running engine never gives way to one of its own worth.
    for index in range(len(orders[0])):
        e = orders[0][index]
        if t.engine_gpu[e] >= 0:
            own = gpus[t.engine_gpu[e] : t.engine_gpu[e] + 1]
            score += _put_engine(t, s, e, own, 1)
    return score + _fill(t, s, gpus, n_gpus, orders[0], 0, random)


@njit(nogil=True, cache=True)
def _neighbourhood(t: Any, gpus: Any, size: int, random: Any) -> int:
    """Draws GPUs, mostly of one site; returns how many."""
    n_gpus = len(t.kind)
    gpus[0] = _draw(random, n_gpus)
    near = _draw(random, 4) != 0
    found = 1
    for _ in range(4 * size):
        if found == size:
            break
        g = _draw(random, n_gpus)
        is_new = not near or t.site[g] == t.site[gpus[0]]
        for index in range(found):
            is_new = is_new and gpus[index] != g
        if is_new:
            gpus[found] = g
            found += 1
    return found


@njit(nogil=True, cache=True)
def _move_cells(t: Any, s: Any, gpus: Any, n_gpus: int, random: Any) -> float:
    """Takes all or some cells off the GPUs and puts them back; returns the score's change."""
    change, n = 0.0, 0
    part = 1 + _draw(random, 3)
    for c in range(len(s.cell)):
        here = s.cell[c] < 0
        for index in range(n_gpus):
            here = here or (s.cell[c] == gpus[index] and _draw(random, part) == 0)
        if here:
            if s.cell[c] >= 0:
                change -= _take_cell(t, s, c)
            s.moving[n] = c
            n += 1
    for index in range(n):  # shuffled
        other = index + _draw(random, n - index)
        s.moving[index], s.moving[other] = s.moving[other], s.moving[index]
    if _draw(random, 4) != 0:
        for index in range(n):
            c = s.moving[index]
            home = t.cell_gpu[c]
            stays = home >= 0 and s.chosen[home] and _draw(random, 8) != 0
            if stays and _cell_cost(t, s, c, home) < np.inf:
                change += _put_cell(t, s, c, home)
    if _draw(random, 3) != 0:
        change += _fill_levels(t, s, gpus, n_gpus, n, random)
    for index in range(n):
        c = s.moving[index]
        if s.cell[c] < 0:
            g = _best_gpu(t, s, c, gpus, n_gpus)
            if g >= 0:
                change += _put_cell(t, s, c, g)
    return change


@njit(nogil=True, cache=True)
def _fill_levels(t: Any, s: Any, gpus: Any, n_gpus: int, n: int, random: Any) -> float:
    """Fills each GPU with moving cells up to what a division drawn for it gives the RAN."""
    change = 0.0
    start = _draw(random, n_gpus)
    for step in range(n_gpus):
        g = gpus[(start + step) % n_gpus]
        kind = t.kind[g]
        first = t.level_first[kind]
        last = t.level_first[kind + 1] if kind + 1 < len(t.level_first) else len(t.level_ran)
        most = t.level_ran[first + _draw(random, last - first)]
        for index in range(n):
            c = s.moving[index]
            fits = s.used[g] + t.cell_sms[c, t.speed[g]] <= most
            if s.cell[c] < 0 and fits and _cell_cost(t, s, c, g) < np.inf:
                change += _put_cell(t, s, c, g)
    return change


@njit(nogil=True, cache=True)
def copy(a: Any, b: Any) -> None:
    """Makes placement `a` what `b` is."""
    a.cell[:] = b.cell
    a.engine[:] = b.engine
    a.part[:] = b.part
    a.division[:] = b.division
    a.used[:] = b.used
    a.crowd[:] = b.crowd
    a.free_sms[:] = b.free_sms
    a.free_mib[:] = b.free_mib


@njit(nogil=True, cache=True)
def _take_engines(t: Any, s: Any, part: int, random: Any) -> float:
    """Takes engines off the chosen GPUs, one in `part` (0: all); returns what the score loses."""
    engine, chosen, sms, mib, speed = s.engine, s.chosen, t.engine_sms, t.engine_mib, t.speed
    lost = 0.0
    for e in range(len(engine)):
        g = engine[e]
        if g < 0 or not chosen[g] or (part and _draw(random, part) != 0):
            continue
        lost += _worth(t, s, e, g, s.part[e])
        s.free_sms[g, s.part[e]] += sms[e, speed[g]]
        s.free_mib[g, s.part[e]] += mib[e]
        engine[e] = -1
    return lost


@njit(nogil=True, cache=True)
def _put_back(t: Any, s: Any, order: Any, random: Any) -> float:
    """Puts most engines that ran on the chosen GPUs back on them; returns what the score gains."""
    engine, home, chosen = s.engine, t.engine_gpu, s.chosen
    one = np.zeros(1, np.int64)
    gained = 0.0
    for index in range(len(order)):
        e = order[index]
        if engine[e] < 0 and home[e] >= 0 and chosen[home[e]] and _draw(random, 8) != 0:
            one[0] = home[e]
            gained += _put_engine(t, s, e, one, 1)
    return gained


@njit(nogil=True, cache=True)
def _step(t: Any, s: Any, gpus: Any, orders: Any, random: Any) -> float:
    """One neighbourhood torn down and built again; returns the score's change."""
    n_gpus = _neighbourhood(t, gpus, 1 + _draw(random, min(4, len(t.kind))), random)
    for index in range(n_gpus):
        s.chosen[gpus[index]] = True
    # Half of the time only some engines go, and everything else stays as it is.
    part = 0 if _draw(random, 2) == 0 else 2 + _draw(random, 4)
    change = -_take_engines(t, s, part, random)
    if not part:
        if len(s.cell) and _draw(random, 2) == 0:
            change += _move_cells(t, s, gpus, n_gpus, random)
        for index in range(n_gpus):
            g = gpus[index]
            row = _level(t, g, s.used[g])
            first, last = t.choice_first[row], t.choice_first[row + 1]
            if t.n_running[0] and _draw(random, 2) == 0:
                _set_division(t, s, g, _keeping(t, g, row))
            else:
                _set_division(t, s, g, t.choice[first + _draw(random, last - first)])
        if t.n_running[0] and _draw(random, 2) == 0:
            change += _put_back(t, s, orders[0], random)
    for index in range(n_gpus):
        s.chosen[gpus[index]] = False
    order = orders[_draw(random, _ORDERS)]
    skip = 0 if _draw(random, 4) == 0 else 3 + _draw(random, 12)
    return change + _fill(t, s, gpus, n_gpus, order, skip, random)


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
