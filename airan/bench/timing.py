"""Medians of interleaved runs, so that a slow moment of the machine hits both sides alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

from airan.core.errors import InvalidInputError

_PAUSE_S = 0.1

OURS_PER_PEER = 3
"""Runs of ours for one of the peer, which is so much slower."""


@dataclass(frozen=True)
class Timing:
    """`median_s` of `n_runs` runs."""

    median_s: float
    n_runs: int


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object] | None, rounds: int
) -> tuple[Timing, Timing | None]:
    """Times `ours` and `peer` in turns.

    At each change of sides there is a pause, in which the other's waiting threads go to sleep, and
    one run that does not count, which brings code and tables back into the caches.

    Raises:
        InvalidInputError: no rounds.
    """
    if rounds < 1:
        raise InvalidInputError("rounds", f"must be at least 1, got {rounds}")
    our_times: list[float] = []
    peer_times: list[float] = []
    for _ in range(rounds):
        _settle(ours)
        our_times += [_seconds(ours) for _ in range(OURS_PER_PEER)]
        if peer is not None:
            _settle(peer)
            peer_times.append(_seconds(peer))
    return _timing(our_times), _timing(peer_times) if peer_times else None


@contextmanager
def on_cores(n_cores: int | None) -> Iterator[int]:
    """Keeps this process and its children to `n_cores` of its cores (None: all it has now).

    Yields how many they are.

    Raises:
        InvalidInputError: there are not so many.
    """
    had = os.sched_getaffinity(0)
    n_cores = len(had) if n_cores is None else n_cores
    if not 1 <= n_cores <= len(had):
        raise InvalidInputError("cores", f"must lie in [1, {len(had)}], got {n_cores}")
    os.sched_setaffinity(0, sorted(had)[:n_cores])
    try:
        yield n_cores
    finally:
        os.sched_setaffinity(0, had)


def _settle(work: Callable[[], object]) -> None:
    sleep(_PAUSE_S)
    work()


def _seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def _timing(times: list[float]) -> Timing:
    return Timing(median(times), len(times))
