"""What a tenant can count on of the slots that its tier has, while others ask for them too."""

from __future__ import annotations

from collections.abc import Mapping

from marketplace.dispatch.queue import Tier
from marketplace.dispatch.rates import VariedRate

_FORGOTTEN = 1e-3
"""Slots below which a tenant is taken to ask for nothing."""
_LIKELY = 2.0
"""Standard deviations by which others may ask for more than they did."""
_LEAST = 0.05
"""Of the slots: a tenant never counts on less."""


class Entitlement:
    """Slot seconds that tenants ask for, for each second that passes, by model and tier.

    Refused work counts as well: who is refused comes again, and then has its share.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, Tier], dict[str, VariedRate]] = {}

    def note(self, model: str, tier: Tier, tenant_id: str, slot_s: float, now_s: float) -> None:
        """A tenant asked for work that takes so many slot seconds."""
        tenants = self._asked.setdefault((model, tier), {})
        for one in [one for one, asked in tenants.items() if asked.per_s(now_s) < _FORGOTTEN]:
            del tenants[one]
        tenants.setdefault(tenant_id, VariedRate(now_s)).add(slot_s, now_s)

    def slots_of(
        self,
        model: str,
        tier: Tier,
        tenant_id: str,
        n_slots: float,
        weights: Mapping[str, int],
        now_s: float,
        ahead_s: float | None = None,
    ) -> float:
        """Of `n_slots` that the tier has, what is the tenant's if it always has work waiting.

        The others have what they ask for, up to their share by weight; what they leave is shared
        again: weighted max-min fairness (Bertsekas and Gallager, Data Networks, 6.5.2), which is
        what a fair queue comes to. With `ahead_s`, the others ask for as much as they well may in
        so many seconds to come.
        """
        tenants = self._asked.get((model, tier), {})
        asked = {
            one: each.per_s(now_s) + _LIKELY * (each.deviation_per_s(ahead_s, now_s))
            for one, each in tenants.items()
            if one != tenant_id
        }
        left, weight_left = n_slots, sum(weights.get(one, 1) for one in (*asked, tenant_id))
        for one in sorted(asked, key=lambda one: asked[one] / weights.get(one, 1)):
            taken = min(asked[one], left * weights.get(one, 1) / weight_left)
            left, weight_left = left - taken, weight_left - weights.get(one, 1)
        return max(left, _LEAST * n_slots)
