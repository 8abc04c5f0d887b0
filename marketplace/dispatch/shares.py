"""How several gateways divide an engine's places between them. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from marketplace.siblings.sibling import TierCounts


def divide(n_places: int, needs: Sequence[TierCounts], first: int = 0) -> list[int]:
    """The places of each gateway, of an engine that has `n_places`; all of them are given out.

    Max-min fair by what each needs: priority's part of all of them goes first, then default's,
    then flex's. What nobody needs is divided evenly. Where that does not come out even, the
    gateways have one more in turn, from number `first` on.

    Args:
        n_places: requests that the engine takes at once.
        needs: jobs of each gateway that run there, or wait and might, by tier.
        first: index into `needs`.
    """
    if not needs:
        return []
    shares, left = [0] * len(needs), n_places
    for wants in (*zip(*needs, strict=True), (n_places,) * len(needs)):
        given = _filled(left, wants, first)
        shares = [share + more for share, more in zip(shares, given, strict=True)]
        left -= sum(given)
    return shares


def parts(n_waiting: int, places: Sequence[int]) -> list[int]:
    """Of jobs that wait for any of a model's engines, those to be reckoned with at each, by the
    engines' places.

    Rounded up: while one waits, no engine is without anybody who wants it.
    """
    n_all = sum(places)
    return [-(-n_waiting * n // n_all) if n else 0 for n in places]


def givers(flex: Sequence[int], n_wanted: int) -> list[int]:
    """How many flex answers each gateway cuts off, so that `n_wanted` places become free.

    `flex`: what each has under way. Who has the most of it gives first, of several the last.
    """
    left, given = list(flex), [0] * len(flex)
    for _ in range(min(n_wanted, sum(flex))):
        number = max(range(len(left)), key=lambda one: (left[one], one))
        left[number] -= 1
        given[number] += 1
    return given


def _filled(n_places: int, wants: Sequence[int], first: int) -> list[int]:
    """Max-min fair: none has less than another unless it wants no more."""
    given, left, n = [0] * len(wants), n_places, len(wants)
    order = [(first + index) % n for index in range(n)]
    while left and (open_ := [one for one in order if given[one] < wants[one]]):
        each = max(1, left // len(open_))
        for one in open_[:left]:
            more = min(each, wants[one] - given[one])
            given[one] += more
            left -= more
    return given
