"""Engines in and out of partitions, compiled."""

# mypy: disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from orchestrator.placement.state_kernel import draw


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
def put_engine(t: Any, s: Any, e: int, gpus: Any, n_gpus: int) -> float:
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
def fill(t: Any, s: Any, gpus: Any, n_gpus: int, order: Any, skip: int, random: Any) -> float:
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
        if skip and draw(random, skip) == 0:
            waiting[n_waiting] = e
            n_waiting += 1
            continue
        worth = put_engine(t, s, e, gpus, n_gpus)
        if worth > 0.0:
            gained += worth
            if n_gpus <= 8:
                top_sms = _largest(s.free_sms, gpus, n_gpus)
                top_mib = _largest(s.free_mib, gpus, n_gpus)
    for index in range(n_waiting):
        gained += put_engine(t, s, waiting[index], gpus, n_gpus)
    return gained


@njit(nogil=True, cache=True)
def take_engines(t: Any, s: Any, part: int, random: Any) -> float:
    """Takes engines off the chosen GPUs, one in `part` (0: all); returns what the score loses."""
    engine, chosen, sms, mib, speed = s.engine, s.chosen, t.engine_sms, t.engine_mib, t.speed
    lost = 0.0
    for e in range(len(engine)):
        g = engine[e]
        if g < 0 or not chosen[g] or (part and draw(random, part) != 0):
            continue
        lost += _worth(t, s, e, g, s.part[e])
        s.free_sms[g, s.part[e]] += sms[e, speed[g]]
        s.free_mib[g, s.part[e]] += mib[e]
        engine[e] = -1
    return lost


@njit(nogil=True, cache=True)
def put_back(t: Any, s: Any, order: Any, random: Any) -> float:
    """Puts most engines that ran on the chosen GPUs back on them; returns what the score gains."""
    engine, home, chosen = s.engine, t.engine_gpu, s.chosen
    one = np.zeros(1, np.int64)
    gained = 0.0
    for index in range(len(order)):
        e = order[index]
        if engine[e] < 0 and home[e] >= 0 and chosen[home[e]] and draw(random, 8) != 0:
            one[0] = home[e]
            gained += put_engine(t, s, e, one, 1)
    return gained
