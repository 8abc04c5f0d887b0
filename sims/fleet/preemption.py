"""Which running requests make room for those of the tier priority: by the live rule."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.dispatch.queue import Tier
from marketplace.dispatch.yielding import chosen_to_yield

_TURNS = 16
"""Running requests that stand for all, from those just begun to those nearly done."""


@dataclass(frozen=True)
class SimulatedTurn:
    """A request at work."""

    tier: Tier
    is_held: bool
    n_tokens: int
    """Of its prompt and of its answer so far."""
    is_cut: bool = False

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """All tokens are worked on as a prompt; none has a schema."""
        return False, self.n_tokens


def running(
    tier: Tier, context_tokens: float, generated_tokens: float, *, held: bool
) -> list[SimulatedTurn]:
    """Requests of that mean length at work, evenly far on."""
    return [
        SimulatedTurn(
            tier, held, round(context_tokens + generated_tokens * (number + 0.5) / _TURNS)
        )
        for number in range(_TURNS)
    ]


def yields(turns: list[SimulatedTurn]) -> SimulatedTurn | None:
    """The one that makes room for one request of priority, if any does."""
    return next(iter(chosen_to_yield(turns, 1)), None)
