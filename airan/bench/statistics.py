"""Error rates with their confidence, and where a curve crosses a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CONFIDENCE = 0.95
_NORMAL_QUANTILE = 1.959964  # of (1 + CONFIDENCE) / 2


@dataclass
class Tally:
    """Errors so far of one receiver or decoder; it is done after `max_errors` of them."""

    max_errors: int
    n_trials: int = 0
    n_errors: int = 0

    @property
    def done(self) -> bool:
        """There were enough errors."""
        return self.n_errors >= self.max_errors

    @property
    def rate(self) -> float:
        """Errors a trial."""
        return self.n_errors / self.n_trials

    def add(self, n_trials: int, n_errors: int) -> None:
        """Counts `n_trials` more, `n_errors` of them failed."""
        self.n_trials += n_trials
        self.n_errors += n_errors


def wilson_interval(n_errors: int, n_trials: int) -> tuple[float, float]:
    """Returns the 95% confidence interval of an error rate; (0, 1) without trials.

    Paper: Wilson, "Probable inference, the law of succession, and statistical inference" (1927)
    """
    if n_trials == 0:
        return 0.0, 1.0
    z2 = _NORMAL_QUANTILE**2
    rate = n_errors / n_trials
    centre = (rate + z2 / (2 * n_trials)) / (1 + z2 / n_trials)
    half = math.sqrt(rate * (1 - rate) / n_trials + z2 / (4 * n_trials**2))
    half *= _NORMAL_QUANTILE / (1 + z2 / n_trials)
    low = centre - half if n_errors > 0 else 0.0
    high = centre + half if n_errors < n_trials else 1.0
    return low, high


def falls_below(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """Returns the SNR in dB at which an error rate falls below `level`, for good.

    The curve is (SNR in dB, error rate) by rising SNR, interpolated linearly in dB and in the
    rate's logarithm (linearly in the rate where it reaches 0). None if it never crosses.
    """
    for (snr, rate), (next_snr, next_rate) in reversed(list(pairwise(curve))):
        if rate >= level > next_rate:
            if next_rate > 0:
                part = math.log(rate / level) / math.log(rate / next_rate)
            else:
                part = (rate - level) / rate
            return snr + part * (next_snr - snr)
    return None
