"""One thing that is done to the site, and what clients, slots and the dashboard saw of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from airan.bench.replay.client import Seen
from airan.bench.site.feed import FeedReader
from airan.bench.site.load import SteadyLoad
from airan.bench.site.slots import Records, SlotsAfter, slots_after

_SILENCE_S = 0.5
"""An engine that gives nobody a token for longer has stopped."""


@dataclass
class Step:
    """What was done.

    Attributes:
        name: of it.
        at_s, until_s: from when to when it is looked at, on the host's monotonic clock.
        at_unix_s: the beginning by the calendar.
        is_back: all worked again in the end.
        detail: further figures.
    """

    name: str
    at_s: float
    at_unix_s: float
    until_s: float = math.inf
    is_back: bool = False
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What came of it.

    Attributes:
        name: of the step.
        is_back: all worked again in the end.
        slots: Layer 1's.
        engine_silent_s: the longest time without a token for anybody; 0 if it is below 0.5 s.
        engine_back_s: from the beginning until the first token after that; 0 likewise; None: none
            came.
        streams_open: at the beginning, or begun before the end.
        streams_broken: accepted, and not read to their end.
        tokens_lost: of these streams.
        refused: requests that the marketplace turned away meanwhile.
        events: that the dashboard's feed told of: source, kind, message, seconds after.
        detail: further figures.
    """

    name: str
    is_back: bool
    slots: SlotsAfter
    engine_silent_s: float
    engine_back_s: float | None
    streams_open: int
    streams_broken: int
    tokens_lost: int
    refused: int
    events: list[dict[str, Any]]
    detail: dict[str, Any]


def result_of(
    step: Step, records: Records, load: SteadyLoad, feed: FeedReader, pace: float
) -> StepResult:
    """When all streams have ended."""
    during = [one for one in load.seen if _overlaps(one, step, load.begun_s)]
    silent_s, back_s = silence(load.token_times_s(), step.at_s, step.until_s)
    events = feed.between(step.at_unix_s, step.at_unix_s + step.until_s - step.at_s)
    return StepResult(
        step.name,
        step.is_back,
        slots_after(records, step.at_s, step.until_s, pace),
        silent_s,
        back_s,
        sum(one.accepted for one in during),
        sum(one.accepted and not one.complete for one in during),
        sum(tokens_lost(one) for one in during),
        sum(one.refused for one in during),
        [
            {
                "after_s": round(one["time_s"] - step.at_unix_s, 2),
                "source": one["source"],
                "kind": one["kind"],
                "message": one["message"],
            }
            for one in events
        ],
        step.detail,
    )


def tokens_lost(seen: Seen) -> int:
    """All of an accepted answer that did not end; of others what was billed and did not come, or
    the other way round."""
    if not seen.accepted:
        return 0
    return seen.n_missing if seen.complete else seen.planned.n_answer


def silence(token_s: Sequence[float], at_s: float, until_s: float) -> tuple[float, float | None]:
    """The longest time without tokens between two moments, and when after the first it ended; 0 and
    0 if it is short, and None if no token came after it."""
    inside = [one for one in token_s if at_s < one <= until_s]
    gaps = [(end - begin, end) for begin, end in pairwise([at_s, *inside, until_s])]
    longest_s, end_s = max(gaps)
    if longest_s < _SILENCE_S:
        return 0.0, 0.0
    return longest_s, None if end_s == until_s else end_s - at_s


def _overlaps(seen: Seen, step: Step, begun_s: float) -> bool:
    begins_s, ends_s = begun_s + seen.planned.at_s, begun_s + seen.ended_s
    return begins_s <= step.until_s and ends_s >= step.at_s
