"""A dumb allocator by brute force, to check the planner against: it knows the profiles' starts
and sizes, tries every set of them, and shares no code with the planner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product

from orchestrator.mig import MEMORY_SLICES, MigGeometry

Piece = tuple[int, int, int]
"""Start, slices, SMs."""


@cache
def most_sms_divided(gpu: str) -> int:
    """The most SMs that two or more instances have together."""
    return max(sum(sms for _, _, sms in pieces) for pieces in _sets(gpu) if len(pieces) > 1)


@cache
def splits(gpu: str) -> frozenset[tuple[int, int]]:
    """Every (RAN's SMs, AI's SMs) that a GPU divided into two or more instances can give."""
    found = set()
    for pieces in _sets(gpu):
        if len(pieces) > 1:
            for of_ran in product((True, False), repeat=len(pieces)):
                ran = sum(piece[2] for piece, mine in zip(pieces, of_ran, strict=True) if mine)
                found.add((ran, sum(piece[2] for piece in pieces) - ran))
    return frozenset(found)


def can_give(gpu: str, n_gpus: int, ran_sms: int) -> bool:
    """Whether so many divided GPUs can give the RAN that many SMs."""
    return n_gpus * max(ran for ran, _ in splits(gpu)) >= ran_sms


def free_slices(pieces: Iterable[tuple[int, int]], positions: int = MEMORY_SLICES) -> int:
    """Slices, or SMs of a GPU divided without MIG, that no (start, size) covers.

    Raises:
        ValueError: two cover the same one, or one lies outside the GPU.
    """
    painted = [False] * positions
    for start, size in pieces:
        for position in range(start, start + size):
            if position >= positions or painted[position]:
                raise ValueError(f"slice {position} is not free for ({start}, {size})")
            painted[position] = True
    return painted.count(False)


@cache
def _sets(gpu: str) -> tuple[tuple[Piece, ...], ...]:
    pieces = [
        (start, profile.size, profile.sm_count, profile.compute_slices)
        for profile in MigGeometry.load(gpu).profiles
        if profile.is_plain
        for start in profile.starts
    ]

    def extended(
        taken: tuple[tuple[int, int, int, int], ...], rest: int
    ) -> Iterator[tuple[Piece, ...]]:
        yield tuple(piece[:3] for piece in taken)
        for index in range(rest, len(pieces)):
            more = (*taken, pieces[index])
            if sum(piece[3] for piece in more) <= 7 and _fits(more):
                yield from extended(more, index + 1)

    return tuple(extended((), 0))


def _fits(pieces: Iterable[tuple[int, int, int, int]]) -> bool:
    try:
        free_slices((start, size) for start, size, _, _ in pieces)
    except ValueError:
        return False
    return True
