"""The tenants that a replay plays, and what each tier costs there."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.dispatch.queue import Tier
from marketplace.money import Price


@dataclass(frozen=True)
class Tenant:
    """Who sends requests."""

    name: str
    tier: Tier
    weight: int
    """Of its share of what its tier gets."""
    demand: float
    """Its part of all requests; the parts sum to 1."""


# The two of the default tier ask for equally much, of which one is due twice as much: served in
# the order of their arrival, they would get the same, and the index of fairness would be 0.9.
TENANTS: tuple[Tenant, ...] = (
    Tenant("alarms", "priority", 1, 0.15),
    Tenant("assistant", "default", 2, 0.35),
    Tenant("search", "default", 1, 0.35),
    Tenant("reports", "flex", 1, 0.15),
)
WARM_UP = Tenant("warm-up", "default", 1, 0.0)

PRICES: dict[Tier, Price] = {
    "priority": Price.from_usd(0.02, 0.06),
    "default": Price.from_usd(0.01, 0.03),
    "flex": Price.from_usd(0.005, 0.015),
}
"""Examples: twice the default price for priority, half of it for flex."""
