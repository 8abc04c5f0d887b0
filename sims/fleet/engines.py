"""How fast an engine is on a part of a GPU: from measured tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from airan.core.errors import NotFoundError
from sims.fleet.scenario import Scenario

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
    relative_prefill: tuple[float, ...]
    pause_s: float
    """From a revocation until the engine has paused."""
    start_s: float
    """Until a paused engine generates on a new lease."""
    cold_start_s: float
    """Until one that died generates again."""
    keeps_cache: bool
    """A paused request's prompt and tokens need not be read anew."""

    def at_speed(self, speed: float) -> EngineTable:
        """The same engine on a clock that runs so many times faster than wall time."""
        return replace(
            self,
            tokens_per_s=self.tokens_per_s / speed,
            prefill_tokens_per_s=self.prefill_tokens_per_s / speed,
            pause_s=self.pause_s * speed,
            start_s=self.start_s * speed,
            cold_start_s=self.cold_start_s * speed,
        )

    def decode_rate(self, sms: int) -> float:
        """Tokens a second of a full batch on that many SMs; between points linear."""
        return self.tokens_per_s * self._at(sms, self.relative_rate)

    def prefill_rate(self, sms: int) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens_per_s * self._at(sms, self.relative_prefill)

    def _at(self, sms: int, rates: tuple[float, ...]) -> float:
        return float(np.interp(sms, (0, *self.sms), (0.0, *rates)))

    def concurrent(self, sms: int) -> int:
        """Requests at once."""
        return max(1, round(self.max_concurrent * min(1.0, sms / self.sm_count)))


def of(scenario: Scenario) -> EngineTable:
    """The scenario's engine, in wall time, with what it holds of prompts.

    Raises:
        NotFoundError: there is no table of that name.
    """
    engine = scenario.engine
    found = table(engine) if isinstance(engine, str) else EngineTable(**dict(engine))
    to_read = 1.0 - scenario.llm.held_prompt_share
    return replace(found, prefill_tokens_per_s=found.prefill_tokens_per_s / to_read)


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
    for field in ("sms", "relative_rate", "relative_prefill"):
        body[field] = tuple(body[field])
    return EngineTable(**body)
