"""What is asked for, what it was quoted at, and what is set aside for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from marketplace.billing.limits import RateLimit
from marketplace.money import Price
from marketplace.principal import Principal

Tier = Literal["priority", "default", "flex"]
TIERS: tuple[Tier, ...] = ("priority", "default", "flex")


@dataclass(frozen=True)
class Ask:
    """A job before it is accepted."""

    principal: Principal
    model: str
    tier: Tier
    n_prompt: int
    """Tokens of the prompt; if that is not known yet, the most it can have."""
    max_tokens: int
    """The most it may generate."""

    @property
    def n_tokens(self) -> int:
        """The most tokens it can use."""
        return self.n_prompt + self.max_tokens


@dataclass(frozen=True)
class Reservation:
    """A job's quoted price and what is set aside for it until it ends."""

    job_id: str
    price: Price
    tier: Tier
    amount_micro_usd: int
    n_tokens: int
    rate_limit: RateLimit = field(default_factory=RateLimit)
