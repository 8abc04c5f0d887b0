"""Waiting times, counted in buckets that grow by a tenth: percentiles that add up over sites."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_LEAST_S = 0.001
_GROWTH = math.log(1.1)
N_BUCKETS = 200


class Histogram:
    """How many requests waited how long."""

    def __init__(self, counts: Sequence[float] | None = None) -> None:
        self.counts = list(counts) if counts is not None else [0.0] * N_BUCKETS

    def add(self, seconds: float, n: float) -> None:
        """Counts `n` requests in."""
        self.counts[_bucket(seconds)] += n

    def move(self, from_s: float, to_s: float, n: float) -> None:
        """Counts `n` requests, at most as many as are there, as having waited longer."""
        bucket = _bucket(from_s)
        moved = min(n, self.counts[bucket])
        self.counts[bucket] -= moved
        self.add(max(from_s, to_s), moved)

    def merge(self, other: Histogram) -> None:
        """Counts those of another in."""
        for index, count in enumerate(other.counts):
            self.counts[index] += count

    def quantile(self, quantile: float) -> float | None:
        """Seconds that that part of the requests did not wait longer than, to a tenth; None for
        no requests."""
        total = math.fsum(self.counts)
        if total <= 0.0:
            return None
        sums = itertools.accumulate(self.counts)
        bucket = next((n for n, seen in enumerate(sums) if seen >= quantile * total), N_BUCKETS - 1)
        return _LEAST_S * math.exp(bucket * _GROWTH)


def _bucket(seconds: float) -> int:
    if seconds <= _LEAST_S:
        return 0
    return min(N_BUCKETS - 1, math.ceil(math.log(seconds / _LEAST_S) / _GROWTH))
