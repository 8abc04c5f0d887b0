"""To which peer a request goes. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from marketplace.federation.policy import DataPolicy
from marketplace.money import Price

T = TypeVar("T")


@dataclass(frozen=True)
class Way(Generic[T]):
    """A peer that serves the model, and what a request would find there."""

    to: T
    region: str
    promises: Collection[str]
    n_ctx: int
    """Context tokens of one request."""
    price: Price
    """What the peer charges us."""
    first_token_s: float
    """Seconds to the first token, as measured from here."""
    has_room: bool


def ways_out(
    policy: DataPolicy, n_prompt: int, n_answer: int, n_most: int, ways: Iterable[Way[T]]
) -> list[T]:
    """Peers that a request may go to: the cheapest first, of these the quickest.

    `n_prompt`, `n_answer`: its tokens as predicted; `n_most`: the most it may come to.
    """
    open_ = [
        way
        for way in ways
        if n_most <= way.n_ctx and policy.allows(way.region, way.promises) and way.has_room
    ]
    open_.sort(key=lambda way: (way.price.amount_micro_usd(n_prompt, n_answer), way.first_token_s))
    return [way.to for way in open_]
