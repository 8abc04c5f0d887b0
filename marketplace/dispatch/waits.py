"""How long a request will wait in line, by what was measured of the work before it and to come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marketplace.dispatch.admission import FirstToken, SlotForecast, Work, predict
from marketplace.dispatch.demand import Demand
from marketplace.dispatch.entitlement import Entitlement
from marketplace.dispatch.progress import Progress
from marketplace.dispatch.queue import Tier
from marketplace.dispatch.spread import Spread

SURE = 3.0
"""Standard deviations by which a wait may be longer than predicted and still be in time."""
_MOST_MARGIN = 0.6
"""Of a tier's time: where next to nothing is certain, the rest of it is still used."""


@dataclass(frozen=True)
class Asker:
    """Whose request it is, and in which line it would wait."""

    model: str
    tier: Tier
    tenant_id: str


@dataclass(frozen=True)
class Before:
    """What goes before a request that comes now, if nothing else comes."""

    ahead: Sequence[Work]
    """All of it, in order."""
    own: Sequence[Work]
    """What its tenant has waiting in its tier."""


class Waits:
    """Notes what is asked for, accepted and done, and predicts waits from it. No clock, no I/O.

    `weights`: of tenants, by id, where they are not 1.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.demand = Demand()
        self.entitlement = Entitlement()
        self.progress = Progress()
        self.spread = Spread()
        self._weights = weights

    def first_token(
        self,
        asker: Asker,
        work: Work,
        before: Before,
        slots: Sequence[SlotForecast],
        now_s: float,
    ) -> FirstToken | None:
        """When the request would have its first token; None: nothing was measured yet."""
        model, tier = asker.model, asker.tier
        n_slots = self.progress.rate(model, now_s) * len(slots)
        n_left = n_slots * self.demand.share_left(model, tier, n_slots, now_s)
        found = predict(slots, before.ahead, work, n_left / max(1, len(slots)))
        if found is None or not found.wait_s:
            return found
        slots_of = (n_left, n_left)
        waits = [self._with_spread(asker, found.wait_s, len(before.ahead), slots_of, now_s)]
        if before.own:
            n_own = self.entitlement.slots_of(
                model, tier, asker.tenant_id, n_left, self._weights, now_s, found.wait_s
            )
            share_s = _share_s((*before.own, work), slots, n_own, n_left)
            waits.append(self._with_spread(asker, share_s, len(before.own), (n_own, n_left), now_s))
        wait_s, spread_s = max(waits, key=lambda one: one[0] + SURE * one[1])
        return FirstToken(wait_s, found.prefill_s, spread_s)

    def _with_spread(
        self,
        asker: Asker,
        wait_s: float,
        n_ahead: int,
        n_slots: tuple[float, float],
        now_s: float,
    ) -> tuple[float, float]:
        """A wait behind so many jobs, and the standard deviation of it.

        `n_slots`: those that the jobs share, and those that the tier has: what higher tiers take
        of these, all of its tenants have less.
        """
        n_shared, n_left = n_slots
        # One of those at work decides when the first slot is free.
        jobs_s2 = (n_ahead + 1) * self.spread.square_s2(asker.model)
        higher_s2 = self.demand.variance_above(asker.model, asker.tier, wait_s, now_s)
        pace = self.spread.pace_square((asker.model, asker.tier))
        square_s2 = jobs_s2 / n_shared**2 + higher_s2 / n_left**2 + pace * wait_s**2
        return wait_s, math.sqrt(square_s2)

    def came(self, asker: Asker, predicted: FirstToken, waited_s: float) -> None:
        """A request's turn came after so long in line; its prediction is that it was accepted on.

        Of its spread, only what is not learned from here is known beforehand.
        """
        line = asker.model, asker.tier
        pace_s = self.spread.pace_square(line) * predicted.wait_s**2
        spread_s = math.sqrt(max(0.0, predicted.spread_s**2 - pace_s))
        self.spread.waited(line, predicted.wait_s, spread_s, waited_s)

    def asked(self, asker: Asker, slot_s: float, now_s: float) -> None:
        """A tenant asks for work that takes so many slot seconds, whether it is accepted or not."""
        self.entitlement.note(asker.model, asker.tier, asker.tenant_id, slot_s, now_s)

    def accepted(self, asker: Asker, slot_s: float, now_s: float, n_jobs: float = 1.0) -> None:
        """Work was accepted that will take so many slot seconds, in so many jobs."""
        self.demand.note(asker.model, asker.tier, slot_s, now_s, n_jobs)


def margin_s(found: FirstToken, target_s: float) -> float:
    """What is kept free of a tier's time: a wait may well be so much longer than predicted."""
    return min(SURE * found.spread_s, _MOST_MARGIN * target_s)


def _share_s(
    works: Sequence[Work], slots: Sequence[SlotForecast], n_own: float, n_left: float
) -> float:
    """Seconds until all `works` of a tenant but the last have had their turn.

    The other tenants' work to come goes between them: the tenant has `n_own` of `n_left` slots.
    """
    *before_s, own_s = (min(slot.seconds(one) or 0.0 for slot in slots) for one in works)
    # In the round in which it is the tenant's turn, the others may go first.
    return (sum(before_s) + own_s) / n_own - own_s / n_left
