"""How many replicas of an engine a load calls for, inside the lease and never beyond it.

No clock, no I/O.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from airan.core.errors import InvalidInputError


@dataclass(frozen=True)
class ScaleRules:
    """How replicas follow the load."""

    sm_per_replica: int
    streams_per_replica: int
    """Requests one replica takes at once."""
    max_replicas: int
    min_replicas: int = 1
    """While there is a lease that carries so many."""
    target_busy: float = 0.8
    """The part of all streams that is to be in use."""
    hold_s: float = 30.0
    """A replica goes only when the load has not called for it for so long."""

    def __post_init__(self) -> None:
        if self.sm_per_replica < 1 or self.streams_per_replica < 1:
            raise InvalidInputError("sm_per_replica", "and streams_per_replica must be 1 or more")
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise InvalidInputError(
                "min_replicas", f"must be between 0 and max_replicas, {self.max_replicas}"
            )
        if not 0.0 < self.target_busy <= 1.0:
            raise InvalidInputError(
                "target_busy", f"must be over 0, up to 1, got {self.target_busy}"
            )
        if self.hold_s < 0.0:
            raise InvalidInputError("hold_s", f"must not be negative, got {self.hold_s}")

    def carried_by(self, sm_count: int) -> int:
        """The most replicas a lease of that size carries; 0 SMs: there is no lease."""
        return min(self.max_replicas, sm_count // self.sm_per_replica)

    def called_for(self, n_requests: int) -> int:
        """Replicas that so many requests at once call for."""
        return math.ceil(n_requests / (self.streams_per_replica * self.target_busy))


class Autoscaler:
    """Follows a rising load at once, and a falling one when it has stayed low."""

    def __init__(self, rules: ScaleRules) -> None:
        self.rules = rules
        self._called_for: deque[tuple[float, int]] = deque()
        """Falling numbers of replicas called for, with the times until which they count."""

    def decide(self, n_requests: int, sm_count: int, now_s: float) -> int:
        """The replicas to run now, for requests running and waiting, on a lease of that size."""
        rules = self.rules
        wanted = max(rules.min_replicas, rules.called_for(n_requests))
        while self._called_for and self._called_for[-1][1] <= wanted:
            self._called_for.pop()
        self._called_for.append((now_s + rules.hold_s, wanted))
        while self._called_for[0][0] < now_s:
            self._called_for.popleft()
        return min(self._called_for[0][1], rules.carried_by(sm_count))
