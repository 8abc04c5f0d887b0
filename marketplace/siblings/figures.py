"""How all gateways stand, from how each of them does. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from marketplace.meter import percentiles

_SUMS = ("waiting", "running", "output_tokens", "tokens_per_s")


def joined(
    own: Mapping[str, Any], others: Sequence[Mapping[str, Any]], ttft_ms: Sequence[float]
) -> dict[str, Any]:
    """What is going on at all gateways, in the form of `Runtime.live_stats`.

    The engines are those that this gateway knows, with what all have under way on them; the
    percentiles are of `ttft_ms`, the latest times to first token of all.
    """
    # One that has just come has said nothing yet.
    heard = [stats for stats in others if stats]
    running: Counter[str] = Counter()
    for stats in (own, *heard):
        for engine in stats["engines"]:
            running[engine["url"]] += engine["running"]
    engines = [engine | {"running": running[engine["url"]]} for engine in own["engines"]]
    sums = {name: sum(stats[name] for stats in (own, *heard)) for name in _SUMS}
    shown = {"engines": engines, "time_to_first_token_ms": percentiles(ttft_ms)}
    return {**own, **sums, **shown}
