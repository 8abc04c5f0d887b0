"""How fast an engine is on a part of a GPU: from measured tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from airan.core.errors import NotFoundError

_TABLES = Path(__file__).parent / "data" / "engines.yaml"


@dataclass(frozen=True)
class EngineTable:
    """One model on one product of GPU. Rates are tokens a second of a full batch."""

    model: str
    hardware: str
    source: str
    sm_count: int
    max_concurrent: int
    """Requests at once on the whole GPU."""
    tokens_per_s: float
    sms: tuple[int, ...]
    relative_rate: tuple[float, ...]
    """Of decoding, at so many SMs."""
    prefill_tokens_per_s: float
    """On the whole GPU; in proportion to SMs."""
    pause_s: float
    """From a revocation until the engine has paused."""
    start_s: float
    """Until a paused engine generates on a new lease."""
    cold_start_s: float
    """Until one that died generates again."""

    def decode_rate(self, sms: int) -> float:
        """Tokens a second of a full batch on that many SMs; between points linear."""
        points = (0, *self.sms), (0.0, *self.relative_rate)
        return self.tokens_per_s * float(np.interp(sms, *points))

    def prefill_rate(self, sms: int) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens_per_s * min(1.0, sms / self.sm_count)

    def concurrent(self, sms: int) -> int:
        """Requests at once."""
        return max(1, round(self.max_concurrent * min(1.0, sms / self.sm_count)))


@cache
def table(name: str) -> EngineTable:
    """The shipped table of that name.

    Raises:
        NotFoundError: there is none; the message lists those there are.
    """
    bodies = yaml.safe_load(_TABLES.read_text(encoding="utf-8"))
    if name not in bodies:
        raise NotFoundError(
            f"there is no engine table {name!r}", remedy=f"there are: {', '.join(sorted(bodies))}"
        )
    body = bodies[name]
    for field in ("sms", "relative_rate"):
        body[field] = tuple(body[field])
    return EngineTable(**body)
