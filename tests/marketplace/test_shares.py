"""How several gateways divide an engine's places, against known answers and a plain oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.dispatch.shares import divide, givers, parts
from marketplace.siblings.sibling import TierCounts

_NEEDS = st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("n_places", "needs", "shares"),
    [
        (8, [(0, 9, 0), (0, 9, 0)], [4, 4]),
        (8, [(0, 1, 0), (0, 9, 0)], [1, 7]),
        (8, [(0, 0, 0), (0, 9, 0)], [0, 8]),
        # What nobody asks for: each has half of it at hand.
        (8, [(0, 0, 0), (0, 0, 0)], [4, 4]),
        (8, [(0, 2, 0), (0, 0, 0)], [5, 3]),
        (7, [(0, 0, 0), (0, 0, 0), (0, 0, 0)], [3, 2, 2]),
        # Priority's needs go before default's, and these before flex's.
        (4, [(3, 0, 0), (0, 9, 9)], [3, 1]),
        (4, [(0, 0, 9), (0, 3, 0)], [1, 3]),
        (4, [(5, 0, 0), (5, 0, 0)], [2, 2]),
        (0, [(1, 0, 0), (0, 0, 0)], [0, 0]),
        (3, [], []),
    ],
)
def test_places_are_divided_by_what_is_needed(
    n_places: int, needs: list[TierCounts], shares: list[int]
) -> None:
    assert divide(n_places, needs) == shares


def test_the_place_that_is_over_goes_round() -> None:
    needs: list[TierCounts] = [(0, 9, 0)] * 3
    assert [divide(4, needs, first) for first in range(3)] == [[2, 1, 1], [1, 2, 1], [1, 1, 2]]
    assert [divide(1, needs, first) for first in range(3)] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@given(st.integers(0, 30), _NEEDS, st.integers(0, 4))
def test_all_places_are_given_out_and_each_to_whoever_has_least_of_its_need(
    n_places: int, needs: list[TierCounts], first: int
) -> None:
    first %= len(needs)
    assert divide(n_places, needs, first) == one_by_one(n_places, needs, first)


def one_by_one(n_places: int, needs: list[TierCounts], first: int) -> list[int]:
    """The same, place by place."""
    shares = [0] * len(needs)
    wants = [[need[tier] for need in needs] for tier in range(3)] + [[n_places] * len(needs)]
    turn = sorted(range(len(needs)), key=lambda one: (one - first) % len(needs))
    for want in wants:
        given_out = [0] * len(needs)
        while sum(shares) < n_places:
            open_ = [one for one in turn if given_out[one] < want[one]]
            if not open_:
                break
            poorest = min(open_, key=lambda one: given_out[one])
            given_out[poorest] += 1
            shares[poorest] += 1
    return shares


@given(_NEEDS, st.integers(1, 30))
def test_who_needs_more_never_has_less(needs: list[TierCounts], n_places: int) -> None:
    shares = divide(n_places, needs)
    for one, mine in zip(needs, shares, strict=True):
        for other, theirs in zip(needs, shares, strict=True):
            if all(a >= b for a, b in zip(one, other, strict=True)):
                assert mine >= theirs - 1


@given(st.integers(0, 50), st.lists(st.integers(0, 16), min_size=1, max_size=5))
def test_waiting_work_is_reckoned_with_at_every_engine_that_has_places(
    n_waiting: int, places: list[int]
) -> None:
    found = parts(n_waiting, places)
    assert [bool(part) for part in found] == [bool(n and n_waiting) for n in places]
    assert sum(found) >= n_waiting or not any(places)
    assert sum(found) < n_waiting + len(places)


def test_flex_answers_are_given_up_by_who_has_most_of_them() -> None:
    assert givers([1, 4, 2], 3) == [0, 2, 1]
    assert givers([2, 2, 0], 1) == [0, 1, 0]
    assert givers([2, 2, 0], 3) == [1, 2, 0]
    assert givers([1, 0], 5) == [1, 0]
    assert givers([0, 0], 2) == [0, 0]
