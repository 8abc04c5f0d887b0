"""What requests cost: by tier and direction, by the live price book's arithmetic."""

from __future__ import annotations

from typing import Any

from marketplace.billing.prices import PriceList
from marketplace.billing.spot import FULL_PERMILLE
from marketplace.money import Price
from sims.fleet.market import TokenPrice
from sims.fleet.scenario import Scenario

_MODEL = "simulated"


def price_book(scenario: Scenario) -> PriceList:
    """The scenario's prices as the live price list; a tier without one costs as `default`."""
    rows = [
        _row(number, tier, price)
        for number, (tier, price) in enumerate(sorted(scenario.prices.items()))
    ]
    return PriceList(rows, {_MODEL: Price(0, 0)})


def price_at(book: PriceList, tier: str, level_permille: int = FULL_PERMILLE) -> Price:
    """What 1,000 tokens of that tier cost at a spot level."""
    return book.at(_MODEL, tier, 0.0, level_permille)


def live_price(price: TokenPrice) -> Price:
    """As the live code has it."""
    return Price.from_usd(price.input_usd_per_1k, price.output_usd_per_1k)


def _row(number: int, tier: str, price: TokenPrice) -> dict[str, Any]:
    live = live_price(price)
    return {
        "id": number,
        "model": _MODEL,
        "tier": tier,
        "input_micro_usd_per_1k": live.input_micro_usd_per_1k,
        "output_micro_usd_per_1k": live.output_micro_usd_per_1k,
        "valid_from_s": 0.0,
        "valid_until_s": None,
        "spot_floor_permille": round(FULL_PERMILLE * price.spot_floor),
    }
