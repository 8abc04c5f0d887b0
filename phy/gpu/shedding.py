"""Which UEs a slot that would be too long goes without.

The rule: whole UEs are shed, never parts of one. UEs are taken in order of priority, among equals
those that have been transmitted most often first, then in the order given; one that does not fit
what is left of the budget is shed, and a smaller one after it may still be taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phy.checks import check_range


@dataclass(frozen=True)
class Candidate:
    """A UE that wants to be received.

    Attributes:
        cost_us: what it adds to the slot's time, by the cost model.
        priority: higher is kept longer.
        transmission: transmissions of its block so far.
    """

    cost_us: float
    priority: int = 0
    transmission: int = 0


def keep(candidates: Sequence[Candidate], base_us: float, budget_us: float) -> list[int]:
    """Returns the indices of the UEs to receive, rising.

    Args:
        candidates: the UEs.
        base_us: what the slot takes without any UE.
        budget_us: what it may take.

    Raises:
        InvalidInputError: a negative or NaN time.
    """
    check_range("base_us", base_us, 0.0, 1e9)
    check_range("budget_us", budget_us, 0.0, 1e9)
    for candidate in candidates:
        check_range("cost_us", candidate.cost_us, 0.0, 1e9)
    left = budget_us - base_us
    order = sorted(
        range(len(candidates)),
        key=lambda i: (-candidates[i].priority, -candidates[i].transmission, i),
    )
    kept = []
    for index in order:
        if candidates[index].cost_us <= left:
            left -= candidates[index].cost_us
            kept.append(index)
    return sorted(kept)
