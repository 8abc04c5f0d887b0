"""How much comes in a second, as of late."""

from __future__ import annotations

import math

MEMORY_S = 60.0


class Rate:
    """A sum that fades with time, as a rate.

    `memory_s`: time constant with which what came earlier is forgotten. Of less than `seen` of it
    nothing can be said: what came in it counts as if it had come in so long.
    """

    def __init__(self, now_s: float, memory_s: float = MEMORY_S, seen: float = 0.25) -> None:
        self._memory_s, self._least_s = memory_s, seen * memory_s
        self._sum = 0.0
        self._first_s = self._last_s = now_s

    def add(self, amount: float, now_s: float) -> None:
        """So much came."""
        self._sum = self._sum * math.exp((self._last_s - now_s) / self._memory_s) + amount
        self._last_s = now_s

    def per_s(self, now_s: float) -> float:
        """What comes each second."""
        kept = self._sum * math.exp((self._last_s - now_s) / self._memory_s)
        return kept / self.window_s(now_s)

    def window_s(self, now_s: float) -> float:
        """The time that the rate rests on."""
        seen_s = max(now_s - self._first_s, self._least_s)
        return self._memory_s * (1.0 - math.exp(-seen_s / self._memory_s))


class VariedRate(Rate):
    """A rate of what comes in pieces at random, with how much it varies (compound Poisson)."""

    def __init__(self, now_s: float, memory_s: float = MEMORY_S, seen: float = 0.25) -> None:
        super().__init__(now_s, memory_s, seen)
        self._squares = Rate(now_s, memory_s, seen)

    def add(self, amount: float, now_s: float, n: float = 1.0) -> None:
        """So much came, in `n` pieces alike."""
        super().add(amount, now_s)
        self._squares.add(amount * amount / n, now_s)

    def variance(self, ahead_s: float, now_s: float) -> float:
        """Of what will come in a time to come.

        It varies by the squares of its pieces; and so does what was seen of it until now, from
        which we take how much will come.
        """
        return self._squares.per_s(now_s) * ahead_s * (1.0 + ahead_s / self.window_s(now_s))

    def deviation_per_s(self, ahead_s: float | None, now_s: float) -> float:
        """How far the rate in that time may be from the one seen; 0 where no time is given."""
        return math.sqrt(self.variance(ahead_s, now_s)) / ahead_s if ahead_s else 0.0
