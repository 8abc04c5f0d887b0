"""Requests of one tenant that arrived in one step, and what is counted of a tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from marketplace.dispatch.admission import FirstToken
from marketplace.dispatch.queue import Tier
from marketplace.money import Price


@dataclass(frozen=True)
class Group:
    """Requests of one tenant that ask together."""

    tenant: str
    n: int
    context_tokens: int
    generated_tokens: int
    tries_left: int
    """How often they come again if they are refused."""

    def part(self, n: int) -> Group:
        """As many of them."""
        context, made = self.context_tokens * n // self.n, self.generated_tokens * n // self.n
        return Group(self.tenant, n, context, made, self.tries_left)

    def less(self, other: Group) -> Group:
        """Without those."""
        context = self.context_tokens - other.context_tokens
        made = self.generated_tokens - other.generated_tokens
        n = self.n - other.n
        return Group(self.tenant, n, context, made, self.tries_left)


@dataclass(frozen=True)
class Predicted:
    """Waits in line on which a step's requests were let in: of those that came first and last."""

    first: FirstToken
    last: FirstToken
    each_s: float
    """Of the engines' time, that one of them takes."""

    def at(self, part: float) -> FirstToken:
        """Of those that came when that part of the step had passed."""
        first, last = self.first, self.last
        wait_s = first.wait_s + part * (last.wait_s - first.wait_s)
        spread_s = first.spread_s + part * (last.spread_s - first.spread_s)
        return FirstToken(wait_s, 0.0, spread_s)


@dataclass(eq=False)
class Cohort:
    """Requests of one tenant that arrived in one step and were let in."""

    tier: Tier
    tenant: str
    n: int
    context_tokens: int
    generated_tokens: int
    begun_s: float
    """When their step began."""
    price: Price
    """What they were quoted."""
    tries: list[int]
    """How many of them come so often again if they are refused after all; by that number."""
    predicted: Predicted | None = None
    """None: nothing was measured yet."""
    left: float = 1.0
    """Part of their work that is still to do."""
    held: bool = False
    """They run although priority work waits, and are not cut off for it."""

    @property
    def n_left(self) -> float:
        """Requests that wait or are at work."""
        return self.n * self.left

    def turn_away(self, n: int) -> list[Group]:
        """Takes out the last `n`, which nothing was done for, by the tries they have left."""
        kept = self.n - n
        context, made = self.context_tokens * kept // self.n, self.generated_tokens * kept // self.n
        gone = Group(self.tenant, n, self.context_tokens - context, self.generated_tokens - made, 0)
        self.left = (self.n_left - n) / kept if kept else 0.0
        self.n, self.context_tokens, self.generated_tokens = kept, context, made
        found, before = [], 0
        for tries_left, mine in enumerate(shared(n, self.tries)):
            self.tries[tries_left] -= mine
            if mine:
                one = gone.part(before + mine).less(gone.part(before))
                found.append(replace(one, tries_left=tries_left))
                before += mine
        return found


def shared(n: int, counts: Sequence[int]) -> list[int]:
    """`n` of all, of each the same part, rounded in the sum."""
    total, passed, found = sum(counts), 0, []
    for count in counts:
        found.append((passed + count) * n // total - passed * n // total)
        passed += count
    return found


@dataclass
class TierCount:
    """What became of the requests of one tier."""

    arrived: int = 0
    retried: int = 0
    """Times that a refused one came again."""
    refused_late: int = 0
    """Their first token would have come later than the tier promises."""
    refused_full: int = 0
    """Too many of their tenant's waited."""
    retry_after_s: float = 0.0
    """Seconds that those refused as too late were told to wait, added up."""
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
