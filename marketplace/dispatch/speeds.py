"""How fast the engines are on their present leases, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from marketplace.engines.base import EngineState

_KEEP_PREFILL = 0.9
_KEEP_TOKEN = 0.99
_FLAT = 1e-6
"""Part of the square of the mean under which a variance is none."""


@dataclass
class DecayedLine:
    """A straight line through measured points, of which each new one makes the old count less.

    Neither its slope nor its value at 0 is negative. While all points have the same `x`, the line
    goes through 0 if `proportional`, or else is level.
    """

    keep: float
    proportional: bool
    _n: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """One measured point."""
        keep = self.keep
        self._n = self._n * keep + 1.0
        self._x = self._x * keep + x
        self._y = self._y * keep + y
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * y

    def at(self, x: float) -> float | None:
        """The line's value; None without any point."""
        if not self._n:
            return None
        mean_x, mean_y = self._x / self._n, self._y / self._n
        variance = self._xx / self._n - mean_x * mean_x
        if variance <= _FLAT * mean_x * mean_x:
            return mean_y * x / mean_x if self.proportional and mean_x else mean_y
        slope = max(0.0, (self._xy / self._n - mean_x * mean_y) / variance)
        if mean_y < slope * mean_x:
            slope = self._xy / self._xx
            return slope * x
        return mean_y + slope * (x - mean_x)


@dataclass
class EngineSpeed:
    """One engine on a lease of one size."""

    prefill: DecayedLine = field(default_factory=lambda: DecayedLine(_KEEP_PREFILL, True))
    """Seconds to the first token over prompt tokens that the engine did not hold yet."""
    token: DecayedLine = field(default_factory=lambda: DecayedLine(_KEEP_TOKEN, False))
    """Seconds between two tokens of an answer over the number of answers at once."""

    def prefill_s(self, n_tokens: float) -> float | None:
        """Seconds to the first token after so many new prompt tokens; None: not measured."""
        return self.prefill.at(n_tokens)

    def token_s(self, n_at_once: int) -> float:
        """Seconds a token of each of so many answers; 0 until one had two tokens."""
        return self.token.at(n_at_once) or 0.0


class Speeds:
    """The speeds of all engines, by lease size: an engine is another one on another lease."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], EngineSpeed] = {}
        self._latest: dict[str, EngineSpeed] = {}

    def note_first_token(self, state: EngineState, n_new: int, seconds: float) -> None:
        """An engine gave the first token of a turn whose prompt had `n_new` tokens to work on."""
        self._measured(state).prefill.add(n_new, seconds)

    def note_tokens(self, state: EngineState, n_at_once: int, seconds_per_token: float) -> None:
        """An engine gave further tokens while it worked on `n_at_once` answers."""
        self._measured(state).token.add(n_at_once, seconds_per_token)

    def of(self, state: EngineState) -> EngineSpeed | None:
        """The engine's speed on this lease, or else the model's as measured last, anywhere."""
        return self._of.get((state.name, state.sm_count)) or self._latest.get(state.model)

    def _measured(self, state: EngineState) -> EngineSpeed:
        speed = self._of.setdefault((state.name, state.sm_count), EngineSpeed())
        self._latest[state.model] = speed
        return speed
