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
    max_waiting: int = 512
    """Requests of a tenant; one more is refused."""
    retries: int = 0
    """How often a refused request comes again."""
    promised_s: float = TtftTargets().priority
    """To the first token of one of priority, by the site's clock."""


def desk_of(scenario: Scenario, site: int) -> Desk:
    """That site's, before anything was measured."""
    admission, targets = None, TtftTargets()
    if scenario.ttft_target_s is not None:
        targets = TtftTargets(**scenario.ttft_target_s.model_dump())
        admission = Admission(targets, float(scenario.step_s), scenario.speed)
    leaving = frozenset(scenario.federation.leaving(site)) if scenario.federation else frozenset()
    return Desk(
        price_book(scenario),
        admission,
        leaving,
        max_waiting=scenario.max_waiting,
        retries=scenario.llm.retries,
        promised_s=targets.priority * scenario.speed,
    )
