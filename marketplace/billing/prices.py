"""Which price holds for a model and tier at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from marketplace.billing.spot import FULL_PERMILLE, spot_permille
from marketplace.money import Price


class PriceList:
    """The prices that were set, and those of the site's configuration for what has none.

    A tier that has no price of its own costs what `default` costs.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], list_prices: dict[str, Price]) -> None:
        self._list_prices = list_prices
        self._rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: (row["valid_from_s"], row["id"]), reverse=True):
            self._rows.setdefault((row["model"], row["tier"]), []).append(row)

    def at(self, model: str, tier: str, time_s: float, level_permille: int) -> Price:
        """The price at that time and spot level.

        The model must be on offer, or be an adapter of one that is (`base:adapter`), which costs
        what its base does where it has no price of its own.
        """
        for name in (model, self._base_of(model)):
            for wanted in (tier, "default"):
                for row in self._rows.get((name, wanted), ()):
                    ended = row["valid_until_s"] is not None and row["valid_until_s"] <= time_s
                    if row["valid_from_s"] <= time_s and not ended:
                        return _moved(row, level_permille)
        return self._list_prices[self._base_of(model)]

    def _base_of(self, model: str) -> str:
        return model if model in self._list_prices else model.rpartition(":")[0]


def _moved(row: dict[str, Any], level_permille: int) -> Price:
    part = spot_permille(level_permille, row["spot_floor_permille"])
    full = (row["input_micro_usd_per_1k"], row["output_micro_usd_per_1k"])
    return Price(*((amount * part + FULL_PERMILLE // 2) // FULL_PERMILLE for amount in full))
