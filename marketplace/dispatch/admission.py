"""Whether a request can have its first token in the time that its tier promises."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from airan.core.errors import InvalidInputError
from marketplace.billing.limits import LimitError
from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.speeds import EngineSpeed


@dataclass(frozen=True)
class TtftTargets:
    """Seconds from a request's arrival to its first token that each tier promises."""

    priority: float = 5.0
    default: float = 30.0
    flex: float = 1800.0

    def __post_init__(self) -> None:
        for tier in TIERS:
            if not self.of(tier) > 0.0:
                raise InvalidInputError(
                    f"ttft_target_s.{tier}",
                    f"is {self.of(tier)} s",
                    remedy="give it a positive number of seconds",
                )

    def of(self, tier: Tier) -> float:
        """That tier's."""
        return float(getattr(self, tier))


@dataclass(frozen=True)
class Work:
    """What a job takes of a slot: tokens of its prompt, and of its answer."""

    n_prompt: int
    n_answer: int
    n_parts: int = 1
    """Inputs for embeddings that the prompt is made of, each read by itself."""

    @property
    def n_first(self) -> int:
        """Tokens to be read before the first result: those of the mean part."""
        return self.n_prompt // self.n_parts


@dataclass(frozen=True)
class SlotForecast:
    """A slot: when it will be free, how fast it is, and how much of the prompt it holds."""

    free_in_s: float
    speed: EngineSpeed
    n_at_once: int
    """Answers the engine works on at once when all its slots are taken."""
    n_held: int = 0
    """Leading tokens of the prompt in question that it need not work on."""

    def seconds(self, work: Work) -> float | None:
        """How long the slot is taken by that work; None: its engine was never measured."""
        prefill_s = self.speed.prefill_s(work.n_prompt / work.n_parts)
        if prefill_s is None:
            return None
        tokens_s = max(0, work.n_answer - 1) * self.speed.token_s(self.n_at_once)
        return prefill_s * work.n_parts + tokens_s


@dataclass(frozen=True)
class FirstToken:
    """When a request will have its first token, in seconds from now."""

    wait_s: float
    """In line."""
    prefill_s: float
    """On the engine."""
    spread_s: float = 0.0
    """By how much the wait may well be off: a standard deviation."""

    @property
    def total_s(self) -> float:
        """Both."""
        return self.wait_s + self.prefill_s


class TierUnreachableError(LimitError):
    """The request cannot have its first token in its tier's time."""

    code = "resource_unavailable"


def predict(
    slots: Sequence[SlotForecast], ahead: Sequence[Work], own: Work, share_left: float = 1.0
) -> FirstToken | None:
    """Plays the line before the slots, each job taking the slot that is free first.

    `share_left`: the part of the slots' time that work of higher tiers, yet to come, leaves. The
    line moves so much slower (the wait of a priority queue is what it would be without the higher
    classes, over 1 less their load; Cobham, 1954).

    None where nothing was measured yet, or there is no slot.
    """
    if not slots:
        return None
    free = [(slot.free_in_s, number) for number, slot in enumerate(slots)]
    heapq.heapify(free)
    for work in ahead:
        free_s, number = free[0]
        taken_s = slots[number].seconds(work)
        if taken_s is None:
            return None
        heapq.heapreplace(free, (free_s + taken_s, number))
    wait_s = free[0][0]
    # Of several slots free at once, the router takes the one that holds most of the prompt.
    held = max(slots[number].n_held for free_s, number in free if free_s <= wait_s)
    slot = slots[free[0][1]]
    prefill_s = slot.speed.prefill_s(max(1, own.n_first - held))
    return None if prefill_s is None else FirstToken(wait_s / share_left, prefill_s)


def check_admission(tier: Tier, predicted: FirstToken, spent_s: float, target_s: float) -> None:
    """Lets the request in if it can have its first token in time.

    `spent_s`: seconds since its arrival.

    Raises:
        TierUnreachableError: it cannot; with the time after which it could, if there is one.
    """
    late_s = spent_s + predicted.total_s - target_s
    if late_s <= 0.0:
        return
    alone_s = spent_s + predicted.prefill_s
    text = f"tier {tier} promises the first token within {target_s:g} s, and it would come after "
    text += f"{spent_s + predicted.total_s:.1f} s"
    if alone_s > target_s:
        text += f", of which {predicted.prefill_s:.1f} s are for the prompt alone"
        raise TierUnreachableError(text, remedy="shorten the prompt, or ask for the tier flex")
    raise TierUnreachableError(
        text, remedy="try again after the time in Retry-After", retry_after_s=late_s
    )
