"""Requests of one tenant that arrived in one step, and what is counted of a tier."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.dispatch.queue import Tier
from marketplace.money import Price


@dataclass(eq=False)
class Cohort:
    """Requests of one tenant that arrived in one step."""

    tier: Tier
    n: int
    context_tokens: int
    generated_tokens: int
    begun_s: float
    """When their step began."""
    price: Price
    """What they were quoted."""
    left: float = 1.0
    """Part of their work that is still to do."""
    held: bool = False
    """They run although priority work waits, and are not cut off for it."""


@dataclass
class TierCount:
    """What became of the requests of one tier."""

    arrived: int = 0
    refused_late: int = 0
    """Their first token would have come later than the tier promises."""
    refused_full: int = 0
    """Too many of their tenant's waited."""
    retry_after_s: float = 0.0
    """Seconds that those refused were told to wait, added up."""
    completed: int = 0
    preempted: int = 0
    """Cut off for requests of priority."""
    generated_tokens: float = 0.0
    context_tokens: float = 0.0
    micro_usd: int = 0

    @property
    def refused(self) -> int:
        """For either reason."""
        return self.refused_late + self.refused_full


@dataclass(frozen=True)
class Refused:
    """Requests that this site cannot serve in their tier's time."""

    step: int
    tier: str
    n: int
    context_tokens: int
    generated_tokens: int
    micro_usd: int
    """What they would have paid here."""
