"""Figures from what the clients saw: goodput, times to the first token, fairness. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airan.bench.replay.client import Seen
from marketplace.dispatch.admission import TtftTargets
from marketplace.dispatch.queue import Tier


@dataclass(frozen=True)
class Fairness:
    """How evenly, by weight, a tier was divided while all of its tenants had work waiting."""

    index: float | None
    """Jain's, of tokens served over weight: 1 is even, 1/n all to one. None: that never was."""
    index_of_demand: float | None
    """The same of the tokens that those tenants asked for in the whole replay."""
    backlogged_s: float
    """How long all of them had requests waiting at once."""
    tokens: Mapping[str, int]
    """Served in that time: prompts and answers of the requests that began then."""


def in_time(seen: Seen, targets: TtftTargets) -> bool:
    """Whether the request was answered whole, and began within its tier's time."""
    if not seen.complete or seen.ttft_s is None:
        return False
    return seen.ttft_s <= targets.of(seen.planned.tenant.tier)


def of_tier(all_seen: Sequence[Seen], tier: Tier) -> list[Seen]:
    """That tier's requests."""
    return [seen for seen in all_seen if seen.planned.tenant.tier == tier]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed; None without any."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def jain(values: Sequence[float]) -> float | None:
    """Jain's index of fairness: (sum x)^2 / (n sum x^2); None if all are 0.

    Paper: Jain, Chiu, Hawe, "A quantitative measure of fairness" (DEC-TR-301, 1984)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def fairness(all_seen: Sequence[Seen], tier: Tier) -> Fairness:
    """Looks at the time in which every tenant of the tier had an accepted request waiting.

    A request waits from its sending to its first token, as far as its client can tell.
    """
    weights: dict[str, int] = {}
    waits: dict[str, list[tuple[float, float]]] = defaultdict(list)
    asked: dict[str, int] = defaultdict(int)
    seen_here = of_tier(all_seen, tier)
    for seen in seen_here:
        name = seen.planned.tenant.name
        weights[name] = seen.planned.tenant.weight
        asked[name] += seen.planned.n_prompt + seen.planned.n_answer
        if seen.token_s:
            waits[name].append((seen.planned.at_s, seen.token_s[0]))
    spans = _all_waiting([waits[name] for name in weights]) if len(weights) > 1 else []
    tokens = dict.fromkeys(weights, 0)
    for seen in seen_here:
        if seen.token_s and any(a < seen.token_s[0] <= b for a, b in spans):
            tokens[seen.planned.tenant.name] += seen.usage_prompt + seen.usage_answer
    return Fairness(
        jain([tokens[name] / weight for name, weight in weights.items()]),
        jain([asked[name] / weight for name, weight in weights.items()]),
        sum(b - a for a, b in spans),
        tokens,
    )


def _all_waiting(waits: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """When each of the tenants has something waiting, given when their requests waited."""
    edges = sorted(
        (at_s, step, number)
        for number, spans in enumerate(waits)
        for span in spans
        for at_s, step in zip(span, (1, -1), strict=True)
    )
    n_waiting = [0] * len(waits)
    found: list[tuple[float, float]] = []
    since_s: float | None = None
    for at_s, step, number in edges:
        n_waiting[number] += step
        if all(n_waiting):
            since_s = at_s if since_s is None else since_s
        elif since_s is not None:
            if at_s > since_s:
                found.append((since_s, at_s))
            since_s = None
    return found
