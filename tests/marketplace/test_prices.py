"""Prices: which holds when, and how the spot price follows the free capacity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.billing.prices import PriceList
from marketplace.billing.spot import FULL_PERMILLE, SpotPrice, spot_permille
from marketplace.money import Price
from marketplace.store.connect import open_database
from marketplace.store.prices import Prices, PriceSpec
from tests.marketplace.books import NOW_S

LIST = {"m": Price(500, 900)}


@pytest.fixture
def prices(database_url: str) -> Iterator[Prices]:
    engine = open_database(database_url)
    yield Prices(engine)
    engine.dispose()


def at(prices: Prices, time_s: float, tier: str = "default", level: int = FULL_PERMILLE) -> Price:
    return PriceList(prices.list(), LIST).at("m", tier, time_s, level)


def put(prices: Prices, amount: int, from_s: float = NOW_S, tier: str = "default") -> int:
    spec = PriceSpec("m", tier, Price(amount, 2 * amount), from_s)
    return int(prices.set(spec, NOW_S)["id"])


def test_what_has_no_price_costs_what_the_site_is_configured_for(prices: Prices) -> None:
    assert at(prices, NOW_S) == at(prices, NOW_S, "priority") == LIST["m"]
    put(prices, 100, tier="priority")
    assert at(prices, NOW_S) == LIST["m"]
    assert at(prices, NOW_S, "priority") == Price(100, 200)


def test_a_price_holds_from_its_time_until_the_next(prices: Prices) -> None:
    put(prices, 100)
    put(prices, 300, NOW_S + 200)
    put(prices, 200, NOW_S + 100)
    found = [at(prices, NOW_S + after_s).input_micro_usd_per_1k for after_s in (-1, 0, 99, 100)]
    assert found == [500, 100, 100, 200]
    assert at(prices, NOW_S + 199) == Price(200, 400)
    assert at(prices, NOW_S + 200, "flex") == Price(300, 600)
    with pytest.raises(InvalidInputError, match="past"):
        put(prices, 1, NOW_S - 1)


def test_a_price_set_twice_for_a_time_is_the_latter(prices: Prices) -> None:
    put(prices, 100)
    put(prices, 200)
    assert at(prices, NOW_S + 5) == Price(200, 400)


def test_a_price_that_was_withdrawn_never_comes_to_hold(prices: Prices) -> None:
    now, later = put(prices, 100), put(prices, 300, NOW_S + 200)
    prices.withdraw(later, NOW_S)
    assert at(prices, NOW_S + 201) == LIST["m"]
    prices.withdraw(now, NOW_S + 50)
    assert at(prices, NOW_S + 49) == Price(100, 200)
    assert at(prices, NOW_S + 50) == LIST["m"]
    for one in (now, 999):
        with pytest.raises(NotFoundError):
            prices.withdraw(one, NOW_S + 60)


def test_only_flex_has_a_price_that_moves_and_it_stays_within_bounds(prices: Prices) -> None:
    with pytest.raises(InvalidInputError, match="only the price of flex moves"):
        PriceSpec("m", "default", Price(1, 1), NOW_S, 500)
    prices.set(PriceSpec("m", "flex", Price(1000, 3000), NOW_S, 400), NOW_S)
    assert at(prices, NOW_S, "flex", 1000) == Price(1000, 3000)
    assert at(prices, NOW_S, "flex", 500) == Price(700, 2100)
    assert at(prices, NOW_S, "flex", 0) == Price(400, 1200)


def test_the_level_ignores_small_changes_and_reaches_both_ends() -> None:
    share = [0.0]
    spot = SpotPrice(lambda: share[0], hysteresis_permille=100)
    found = []
    for share[0] in (0.0, 0.05, 0.09, 0.1, 0.15, 0.05, 0.5, 0.55, 0.96, 1.0, 0.95, 2.0, -1.0):
        found.append(spot.level_permille())
    assert found == [1000, 1000, 1000, 900, 900, 900, 500, 500, 40, 0, 0, 0, 1000]


@given(st.lists(st.floats(0, 1), min_size=1), st.integers(0, 1000), st.integers(0, 300))
def test_the_level_is_never_farther_from_the_load_than_the_hysteresis(
    shares: list[float], floor: int, hysteresis: int
) -> None:
    present = [0.0]
    spot = SpotPrice(lambda: present[0], hysteresis)
    for share in shares:
        present[0] = share
        level = spot.level_permille()
        assert abs(level - 1000 * (1 - share)) <= hysteresis + 1
        assert floor <= spot_permille(level, floor) <= FULL_PERMILLE
