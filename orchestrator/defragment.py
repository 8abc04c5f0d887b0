"""Making room on a GPU by moving as few running instances as possible. Pure.

An instance moves by making its new one first, so that its place must be free while the old one
still stands; moves are ordered accordingly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from airan.core.errors import InvalidInputError
from orchestrator.mig import Layout, MigGeometry, Placement


@dataclass(frozen=True, order=True)
class Move:
    """An instance goes from one placement to another of the same profile."""

    source: Placement
    target: Placement


@dataclass(frozen=True)
class Defragmentation:
    """How room is made: the moves in the order to carry them out, then where the wanted go."""

    moves: tuple[Move, ...]
    placements: Layout
    """Of the wanted profiles, in the order asked for."""


def defragment(
    geometry: MigGeometry,
    occupied: Iterable[Placement],
    wanted: Sequence[str],
    pinned: Iterable[Placement] = (),
) -> Defragmentation | None:
    """Room for the `wanted` profiles beside all `occupied` ones; None if there is no way.

    Of all ways the one that moves the fewest instances, then the fewest SMs, then in the fewest
    moves: an instance may move twice, through a free place, where that spares another. Never one
    of the `pinned`. Deterministic.

    Raises:
        NotFoundError: no such profile.
        InvalidInputError: `occupied` is not legal, or a pinned placement is not in it.
    """
    first = tuple(sorted(occupied))
    geometry.check(first)
    fixed = frozenset(pinned)
    if strangers := fixed.difference(first):
        raise InvalidInputError("pinned", f"{min(strangers)} is not occupied")
    rooms = _rooms(geometry, first, wanted, fixed)
    return _cheapest(geometry, first, rooms, fixed) if rooms else None


def _rooms(
    geometry: MigGeometry, first: Layout, wanted: Sequence[str], fixed: frozenset[Placement]
) -> dict[Layout, Layout]:
    """Every layout that moves lead to and that has room, with where the wanted go in it."""
    front, seen = [first], {first}
    rooms: dict[Layout, Layout] = {}
    while front:
        layout = front.pop()
        places = geometry.place(wanted, layout)
        if places is not None:
            rooms[layout] = places
        for move in _moves(geometry, layout, fixed):
            after = _Standing(layout, frozenset()).after(move).layout
            if after not in seen:
                seen.add(after)
                front.append(after)
    return rooms


def _cheapest(
    geometry: MigGeometry,
    first: Layout,
    rooms: Mapping[Layout, Layout],
    fixed: frozenset[Placement],
) -> Defragmentation:
    """The cheapest way to one of the layouts with room, of which there is one at least."""
    # What was moved once is known by where it stands now, so that to move it on costs no more.
    queue: list[tuple[_Cost, Layout, tuple[Placement, ...], tuple[Move, ...]]] = [
        ((0, 0, 0), first, (), ())
    ]
    seen: set[_Standing] = set()
    while True:
        cost, layout, moved, moves = heapq.heappop(queue)
        if layout in rooms:
            return Defragmentation(moves, rooms[layout])
        standing = _Standing(layout, frozenset(moved))
        if standing in seen:
            continue
        seen.add(standing)
        for move in _moves(geometry, layout, fixed):
            after = standing.after(move)
            price = _price(geometry, after, cost[2] + 1)
            rank = tuple(sorted(after.moved))
            heapq.heappush(queue, (price, after.layout, rank, (*moves, move)))


_Cost = tuple[int, int, int]
"""Instances moved, their SMs, moves."""


@dataclass(frozen=True)
class _Standing:
    layout: Layout
    moved: frozenset[Placement]
    """Those of the layout that are not where they were at first."""

    def after(self, move: Move) -> _Standing:
        kept = (one for one in self.layout if one != move.source)
        layout = tuple(sorted((*kept, move.target)))
        return _Standing(layout, self.moved - {move.source} | {move.target})


def _price(geometry: MigGeometry, standing: _Standing, n_moves: int) -> _Cost:
    return len(standing.moved), geometry.sms(standing.moved), n_moves


def _moves(geometry: MigGeometry, standing: Layout, fixed: frozenset[Placement]) -> Iterator[Move]:
    """Every instance to every place that it can be made at while it still stands."""
    for source in standing:
        profile = geometry.profile(source.profile)
        # Where there are as many as may be, the driver makes no second one to move to.
        if source in fixed or _count(standing, profile.name) >= profile.max_count:
            continue
        for start in profile.starts:
            target = Placement(start, source.size, source.profile)
            if not any(target.overlaps(one) for one in standing):
                yield Move(source, target)


def _count(standing: Layout, name: str) -> int:
    return sum(one.profile == name for one in standing)
