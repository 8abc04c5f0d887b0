"""Making room on a GPU."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from orchestrator.defragment import Defragmentation, defragment
from orchestrator.mig import Layout, MigGeometry, Placement

GH200 = MigGeometry.load("GH200-96GB")
PROFILES = ("1g.12gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb")


def at(profile: str, start: int) -> Placement:
    return GH200.placement(profile, start)


def carried_out(occupied: Layout, found: Defragmentation) -> Layout:
    """Every move by itself, the new instance made while the old one stands."""
    standing = set(occupied)
    for move in found.moves:
        assert move.source.profile == move.target.profile
        GH200.check((*standing - {move.source}, move.target))
        assert not any(move.target.overlaps(one) for one in standing)
        standing = standing - {move.source} | {move.target}
    GH200.check((*standing, *found.placements))
    return tuple(sorted(standing))


def test_one_small_instance_in_the_middle_is_moved_for_a_large_one() -> None:
    occupied = (at("1g.12gb", 2), at("3g.48gb", 4))
    assert GH200.place(["3g.48gb"], occupied) is None
    assert defragment(GH200, occupied, ["3g.48gb"]) is None  # nowhere for both
    found = defragment(GH200, (at("1g.12gb", 1), at("1g.12gb", 5)), ["4g.48gb"])
    assert found is not None
    assert [(move.source, move.target) for move in found.moves] == [
        (at("1g.12gb", 1), at("1g.12gb", 4))
    ]
    assert found.placements == (at("4g.48gb", 0),)


def test_what_fits_already_moves_nothing() -> None:
    found = defragment(GH200, (at("4g.48gb", 0),), ["3g.48gb"])
    assert found == Defragmentation((), (at("3g.48gb", 4),))


def test_a_pinned_instance_never_moves() -> None:
    occupied = (at("1g.12gb", 1), at("1g.12gb", 5))
    found = defragment(GH200, occupied, ["3g.48gb"], pinned=[at("1g.12gb", 1)])
    assert found is not None
    assert [move.source for move in found.moves] == [at("1g.12gb", 5)]
    assert defragment(GH200, occupied, ["3g.48gb"], pinned=occupied) is None


def test_among_as_many_the_smallest_moves() -> None:
    occupied = (at("2g.24gb", 0), at("1g.12gb", 4))
    found = defragment(GH200, occupied, ["3g.48gb"])
    assert found is not None
    assert [move.source for move in found.moves] == [at("1g.12gb", 4)]


def test_an_instance_that_may_exist_once_cannot_be_moved() -> None:
    media = at("1g+me", 1)
    assert defragment(GH200, (media, at("1g.12gb", 4)), ["4g.48gb"]) is None
    found = defragment(GH200, (media, at("1g.12gb", 4)), ["3g.48gb"])
    assert found is not None
    assert [move.source.profile for move in found.moves] == ["1g.12gb"]


def test_what_is_pinned_must_be_there() -> None:
    with pytest.raises(InvalidInputError, match="not occupied"):
        defragment(GH200, (), ["3g.48gb"], pinned=[at("1g.12gb", 1)])


def cheapest(occupied: Layout, wanted: list[str], pinned: Layout) -> tuple[int, int] | None:
    """By brute force: (instances, SMs) of the cheapest set that makes room by moving alone."""
    free = [one for one in occupied if one not in pinned]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(free, count) for count in range(len(free) + 1)
    )
    prices = [
        (len(some), GH200.sms(some)) for some in subsets if room_by_moving(some, occupied, wanted)
    ]
    return min(prices, default=None)


def room_by_moving(some: Layout, occupied: Layout, wanted: list[str]) -> bool:
    """Whether steps of these alone, layout by layout, lead to one with room."""
    still = frozenset(occupied) - frozenset(some)
    front, seen = {frozenset(occupied)}, set[frozenset[Placement]]()
    while front:
        if any(has_room(standing, wanted) for standing in front):
            return True
        seen |= front
        after = {one for standing in front for one in NEIGHBOURS[standing] if still <= one}
        front = after - seen
    return False


def has_room(standing: frozenset[Placement], wanted: list[str]) -> bool:
    names = sorted(wanted)
    return any(
        standing <= layout and sorted(one.profile for one in layout - standing) == names
        for layout in LAYOUTS
    )


LAYOUTS = {frozenset(layout) for layout in GH200.layouts()}


def one_step(before: frozenset[Placement], after: frozenset[Placement]) -> bool:
    """Whether one instance stands elsewhere, and its new place was free beside the old one."""
    gone, come = before - after, after - before
    return len(gone) == len(come) == 1 and frozenset((*before, *come)) in LAYOUTS


def same_profiles(one: frozenset[Placement], other: frozenset[Placement]) -> bool:
    return sorted(part.profile for part in one) == sorted(part.profile for part in other)


NEIGHBOURS = {
    before: [after for after in LAYOUTS if same_profiles(before, after) and one_step(before, after)]
    for before in LAYOUTS
}


@given(
    occupied=st.sampled_from(GH200.layouts()),
    wanted=st.lists(st.sampled_from(PROFILES), min_size=1, max_size=3),
    data=st.data(),
)
@settings(max_examples=150)
def test_the_fewest_instances_and_sms_are_moved(
    occupied: Layout, wanted: list[str], data: st.DataObject
) -> None:
    pinned = tuple(data.draw(st.sets(st.sampled_from(occupied)))) if occupied else ()
    found = defragment(GH200, occupied, wanted, pinned)
    assert (None if found is None else price(occupied, found)) == cheapest(occupied, wanted, pinned)
    if found is not None:
        assert [one.profile for one in found.placements] == wanted
        assert set(pinned) <= set(carried_out(occupied, found))


def price(occupied: Layout, found: Defragmentation) -> tuple[int, int]:
    """Instances moved and their SMs; one that moves on is counted once."""
    origin = {one: one for one in occupied}
    for move in found.moves:
        origin[move.target] = origin.pop(move.source)
    moved = [first for now, first in origin.items() if now != first]
    return len(moved), GH200.sms(moved)
