"""Making room on a GPU by moving as few running instances as possible. Pure.

An instance moves by making its new one first, so that its place must be free while the old one
still stands; moves are ordered accordingly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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

    Of all ways the one with the fewest moves, then with the fewest SMs moved; never one of the
    `pinned`. Deterministic.

    Raises:
        NotFoundError: no such profile.
        InvalidInputError: `occupied` is not legal.
    """
    first = tuple(sorted(occupied))
    geometry.check(first)
    fixed = frozenset(pinned)
    # Cheapest first over the layouts that moves lead to: (moves, SMs moved, layout, the moves).
    queue: list[tuple[int, int, Layout, tuple[Move, ...]]] = [(0, 0, first, ())]
    seen: set[Layout] = set()
    while queue:
        count, sms, standing, moves = heapq.heappop(queue)
        if standing in seen:
            continue
        seen.add(standing)
        places = geometry.place(wanted, standing)
        if places is not None:
            return Defragmentation(moves, places)
        for move in _moves(geometry, standing, fixed):
            after = tuple(sorted((*(one for one in standing if one != move.source), move.target)))
            moved = geometry.profile(move.source.profile).sm_count
            heapq.heappush(queue, (count + 1, sms + moved, after, (*moves, move)))
    return None


def _moves(geometry: MigGeometry, standing: Layout, fixed: frozenset[Placement]) -> Iterator[Move]:
    """Every instance to every place that is free while it still stands."""
    for source in standing:
        if source in fixed:
            continue
        for start in geometry.profile(source.profile).starts:
            target = Placement(start, source.size, source.profile)
            if not any(target.overlaps(one) for one in standing):
                yield Move(source, target)
