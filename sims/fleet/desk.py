"""What requests meet at a site's door: prices, promises, where they may go from there."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.billing.prices import PriceList
from marketplace.dispatch.admission import TtftTargets
from sims.fleet.admission import Admission
from sims.fleet.pricing import price_book
from sims.fleet.scenario import Scenario


@dataclass(frozen=True)
class Desk:
    """One site's."""

    book: PriceList
    admission: Admission | None = None
    """None: everyone is let in."""
    leaving: frozenset[str] = frozenset()
    """Tiers whose refused requests may be done elsewhere."""


def desk_of(scenario: Scenario, site: int) -> Desk:
    """That site's, before anything was measured."""
    admission = None
    if scenario.ttft_target_s is not None:
        targets = TtftTargets(**scenario.ttft_target_s.model_dump())
        admission = Admission(targets, float(scenario.step_s), scenario.speed)
    leaving = frozenset(scenario.federation.leaving(site)) if scenario.federation else frozenset()
    return Desk(price_book(scenario), admission, leaving)
