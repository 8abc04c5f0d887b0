"""How many tokens an engine's step may hold, so that no step is longer than a limit. Pure.

Learnt from measured steps, for each gear by itself: the same tokens take longer on fewer SMs. A
step that was too long lowers the budget at once; it grows by small parts while steps that used it
up stay short. Beside decoding the least budget lets prompts go on, slowly: with none for them, and
steps that decoding alone makes too long, a prompt would wait until answers have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GROWTH = 1.1
_SHORT = 0.85
_USED_UP = 0.9


@dataclass(frozen=True)
class StepLimits:
    """Bounds of an engine's step."""

    limit_us: float = 10_000.0
    """No step is to be longer: what has to wait for one waits no longer than this."""
    decode_tokens: int = 128
    """What decoding takes: one token for each sequence that the engine runs at once."""
    most_tokens: int = 8192

    @property
    def least_tokens(self) -> int:
        """The least budget, but for an alarm: decoding, and a quarter of it for prompts."""
        return min(self.most_tokens, self.decode_tokens + -(-self.decode_tokens // 4))


class StepBudget:
    """The budget in every gear."""

    def __init__(self, ai_sms: Sequence[int], limits: StepLimits) -> None:
        """`ai_sms` are what the engine has in each gear; with none it gets no tokens."""
        self._limits, self._ai_sms = limits, tuple(ai_sms)
        self._found: dict[int, int] = {}

    def tokens(self, gear: int, *, alarm: bool) -> int:
        """What a step in that gear may hold; while an alarm lasts only decoding fits."""
        if not self._ai_sms[gear]:
            return 0
        return self._limits.decode_tokens if alarm else self._found.get(gear, self._guess(gear))

    def learn(self, gear: int, step_us: float, tokens: int) -> None:
        """A step of so many tokens took so long in that gear."""
        limits, budget = self._limits, self.tokens(gear, alarm=False)
        if not budget or tokens < 1 or not step_us > 0:
            return
        if step_us > limits.limit_us:
            budget = min(budget, int(tokens * limits.limit_us / step_us))
        elif step_us <= _SHORT * limits.limit_us and tokens >= _USED_UP * budget:
            budget = int(budget * _GROWTH) + 1
        self._found[gear] = min(limits.most_tokens, max(limits.least_tokens, budget))

    def _guess(self, gear: int) -> int:
        """Of a gear without steps: by the nearest one that has some, in proportion to SMs."""
        if not self._found:
            return self._limits.least_tokens
        nearest = min(self._found, key=lambda one: (abs(one - gear), one))
        share = min(1.0, self._ai_sms[gear] / self._ai_sms[nearest])
        return max(self._limits.least_tokens, int(self._found[nearest] * share))
