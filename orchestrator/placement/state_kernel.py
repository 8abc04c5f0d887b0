"""What every part of the compiled search uses: draws, levels, divisions, copies.

`t` is the fleet's tables, `s` a placement; `orchestrator.placement.planner` makes both.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def draw(random: Any, n: int) -> int:
    """A number in [0, n)."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return int((x >> np.uint64(11)) % np.uint64(n))


@njit(nogil=True, cache=True)
def level(t: Any, g: int, used: int) -> int:
    """The row of choices for a GPU whose cells need `used` SMs; the floor holds without them."""
    used = max(used, t.floor[g])
    kind = t.kind[g]
    row = t.level_first[kind]
    while t.level_ran[row] < used:
        row += 1
    return row


@njit(nogil=True, cache=True)
def keeping(t: Any, g: int, row: int) -> int:
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
def set_division(t: Any, s: Any, g: int, division: int) -> None:
    s.division[g] = division
    for p in range(t.part_sms.shape[1]):
        s.free_sms[g, p] = t.part_sms[division, p]
        s.free_mib[g, p] = t.part_mib[division, p]


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
