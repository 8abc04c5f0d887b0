"""Clocks. Nothing below the composition layer reads the time by itself; it is handed a Clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

DAY_S = 86_400.0


class Clock(Protocol):
    """Where a component gets the time from."""

    def now_s(self) -> float:
        """Wall-clock seconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to; for tests and simulation."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Moves the clock forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds}")
        self._now_s += seconds


@dataclass(frozen=True)
class DayClock:
    """Maps wall time to the time of day of the site, which a demo runs faster than real time.

    `started_s` is the wall time (Unix seconds) at which the site's day stood at
    `start_of_day_s` seconds after midnight; `speed` is site seconds per wall second.
    """

    started_s: float
    start_of_day_s: float = 0.0
    speed: float = 1.0
    hold_after_s: float | None = None
    """Site seconds after which the clock stands still; None: never."""

    def elapsed_s(self, now_s: float) -> float:
        """Site seconds since the day clock started."""
        elapsed_s = (now_s - self.started_s) * self.speed
        return elapsed_s if self.hold_after_s is None else min(elapsed_s, self.hold_after_s)

    def time_of_day_s(self, now_s: float) -> float:
        """Seconds after midnight on the site's clock, in [0, 86400)."""
        return (self.start_of_day_s + self.elapsed_s(now_s)) % DAY_S
