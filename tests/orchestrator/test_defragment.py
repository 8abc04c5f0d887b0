"""Making room on a GPU."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

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


def fewest(occupied: Layout, wanted: list[str]) -> int | None:
    """By brute force: the fewest steps, layout by layout, to one with room."""
    front, seen, steps = {frozenset(occupied)}, set(), 0
    while front:
        if any(GH200.place(wanted, standing) is not None for standing in front):
            return steps
        seen |= front
        front = {after for standing in front for after in neighbours(standing)} - seen
        steps += 1
    return None


def neighbours(standing: frozenset[Placement]) -> set[frozenset[Placement]]:
    """The legal layouts of the same profiles that differ in one place, without overlap of both."""
    found = set()
    for layout in GH200.layouts():
        gone, come = standing - set(layout), set(layout) - standing
        if len(gone) == len(come) == 1:
            (old,), (new,) = gone, come
            if old.profile == new.profile and not old.overlaps(new):
                found.add(frozenset(layout))
    return found


@given(index=st.integers(0, 297), wanted=st.lists(st.sampled_from(PROFILES), max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_fewest_moves_are_made(index: int, wanted: list[str]) -> None:
    occupied = GH200.layouts()[index]
    found = defragment(GH200, occupied, wanted)
    assert (None if found is None else len(found.moves)) == fewest(occupied, wanted)
    if found is not None:
        carried_out(occupied, found)
