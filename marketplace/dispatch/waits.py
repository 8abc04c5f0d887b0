"""How long a request will wait in line, by what was measured of the work before it and to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marketplace.dispatch.admission import FirstToken, SlotForecast, Work, predict
from marketplace.dispatch.calibration import Calibration
from marketplace.dispatch.demand import Demand
from marketplace.dispatch.entitlement import Entitlement
from marketplace.dispatch.progress import Progress
from marketplace.dispatch.queue import Tier

_MOST_MARGIN = 1.0 / 3.0
"""Of a tier's time."""


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
        self.calibration = Calibration()
        self.progress = Progress()
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
        share_left = self.demand.share_left(model, tier, n_slots, now_s)
        n_left = n_slots * share_left
        found = predict(slots, before.ahead, work, n_left / max(1, len(slots)))
        if found is None:
            return None
        share_s = self._share_s(asker, (*before.own, work), slots, n_left, now_s)
        found = FirstToken(max(found.wait_s, share_s), found.prefill_s)
        return found.corrected(self.calibration.factor(model, tier))

    def margin_s(self, asker: Asker, found: FirstToken, target_s: float) -> float:
        """What is kept free of a tier's time, as waits have come later than predicted."""
        late_s = self.calibration.margin_s(asker.model, asker.tier) if found.wait_s else 0.0
        return min(late_s, _MOST_MARGIN * target_s)

    def came(self, asker: Asker, predicted: FirstToken, waited_s: float) -> None:
        """A request's turn came after so long in line."""
        if predicted.wait_s:
            uncorrected_s = predicted.wait_s / predicted.factor
            self.calibration.note(asker.model, asker.tier, uncorrected_s, waited_s)

    def asked(self, asker: Asker, slot_s: float, now_s: float) -> None:
        """A tenant asks for work that takes so many slot seconds, whether it is accepted or not."""
        self.entitlement.note(asker.model, asker.tier, asker.tenant_id, slot_s, now_s)

    def accepted(self, asker: Asker, slot_s: float, now_s: float) -> None:
        """Work was accepted that will take so many slot seconds."""
        self.demand.note(asker.model, asker.tier, slot_s, now_s)

    def _share_s(
        self,
        asker: Asker,
        works: Sequence[Work],
        slots: Sequence[SlotForecast],
        n_left: float,
        now_s: float,
    ) -> float:
        """Seconds until all `works` of a tenant but the last have had their turn.

        The other tenants' work to come goes between them: the tenant has its share of the slots.
        """
        if len(works) < 2:
            return 0.0
        *before_s, own_s = (min(slot.seconds(one) or 0.0 for slot in slots) for one in works)
        model, tier, tenant_id = asker.model, asker.tier, asker.tenant_id
        own = self.entitlement.slots_of(model, tier, tenant_id, n_left, self._weights, now_s)
        # In the round in which it is the tenant's turn, the others may go first.
        return (sum(before_s) + own_s) / own - own_s / n_left
