"""What the runs gave: percentiles, late slots, the AI's rate against its rate alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from airan.bench.sharing.ways import WHOLE, Run
from phy.gpu.bench_slots import Times, TracedSlot
from phy.gpu.downlink_group import PDSCH_BUDGET_US
from phy.gpu.uplink_options import PUSCH_BUDGET_US

BUDGETS_US = {"pusch": PUSCH_BUDGET_US, "pdsch": PDSCH_BUDGET_US}


@dataclass(frozen=True)
class ChannelResult:
    """The slots of one direction.

    Attributes:
        channel: "pusch" or "pdsch".
        slots: all of them; dropped ones have no times.
        dropped: found all buffers busy.
        budget_us: what a slot may take.
        kernels: on the GPU from a slot's first kernel on; None if all were dropped. What it waits
            before its first kernel, e.g. for the other process's time slice, is not in it.
        latency: from when it was due to its results on the host, all waiting included.
        late_kernels, late_latency: slots over the budget by either measure, dropped ones included.
    """

    channel: str
    slots: int
    dropped: int
    budget_us: float
    kernels: Times | None
    latency: Times | None
    late_kernels: int
    late_latency: int


@dataclass
class RunResult:
    """One row of the comparison.

    Attributes:
        name: of the run.
        way: how the GPU was shared.
        slots_limit: what the slots had of it; empty: all.
        channels: the slots; empty if none ran.
        tokens_per_s: of the AI side while slots ran; None without it.
        ai_share: of its rate alone on the whole GPU.
        step_ms: time between ends of steps, percentiles in ms: p50, p99, max.
        p999_ratio: the slots' p99.9 (kernels) of each channel against the same slots alone within
            the same limits.
        error: why there is no result.
    """

    name: str
    way: str
    slots_limit: str = ""
    channels: list[ChannelResult] = field(default_factory=list)
    tokens_per_s: float | None = None
    ai_share: float | None = None
    step_ms: dict[str, float] | None = None
    p999_ratio: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def channel_results(slots: Sequence[TracedSlot]) -> list[ChannelResult]:
    """Summarises the slots of both directions."""
    out = []
    for channel, budget_us in BUDGETS_US.items():
        own = [one for one in slots if one.channel == channel]
        if not own:
            continue
        done = [one for one in own if not math.isnan(one.latency_us)]
        dropped = len(own) - len(done)
        out.append(
            ChannelResult(
                channel,
                len(own),
                dropped,
                budget_us,
                Times.of([one.kernels_us for one in done]) if done else None,
                Times.of([one.latency_us for one in done]) if done else None,
                dropped + sum(one.kernels_us > budget_us for one in done),
                dropped + sum(one.latency_us > budget_us for one in done),
            )
        )
    return out


def tokens_per_s(
    ended_s: Sequence[float], tokens: Sequence[int], from_s: float, until_s: float
) -> float:
    """The rate of the tokens of steps that ended between two moments."""
    if until_s <= from_s:
        return 0.0
    during = (n for one, n in zip(ended_s, tokens, strict=True) if from_s <= one < until_s)
    return sum(during) / (until_s - from_s)


def step_ms(ended_s: Sequence[float], from_s: float, until_s: float) -> dict[str, float] | None:
    """Percentiles of the time between ends of steps; None with fewer than two steps."""
    gaps = np.diff([one for one in ended_s if from_s <= one < until_s]) * 1e3
    if gaps.size == 0:
        return None
    p50, p99 = np.percentile(gaps, (50, 99), method="higher").tolist()
    return {"p50": p50, "p99": p99, "max": float(gaps.max())}


def compare(results: Sequence[RunResult]) -> None:
    """Fills in what rests on the runs of one side alone."""
    ai_alone = next((one for one in results if one.name == f"{WHOLE}, AI alone"), None)
    slots_alone = {
        one.slots_limit: one
        for one in results
        if one.tokens_per_s is None and one.error is None and one.channels
    }
    for one in results:
        if one.tokens_per_s is not None and ai_alone is not None and ai_alone.tokens_per_s:
            one.ai_share = one.tokens_per_s / ai_alone.tokens_per_s
        alone = slots_alone.get(one.slots_limit)
        if alone is None or one.tokens_per_s is None:
            continue
        before = {each.channel: each.kernels for each in alone.channels}
        for each in one.channels:
            reference = before.get(each.channel)
            if reference is not None and each.kernels is not None:
                one.p999_ratio[each.channel] = each.kernels.p999_us / reference.p999_us


def series(run: Run, slots: Sequence[TracedSlot], ended_s: Sequence[float]) -> dict[str, Any]:
    """Every slot and the ends of the AI's steps, ms after the first slot was due; a dropped slot's
    times are null."""
    first_s = slots[0].due_s if slots else (ended_s[0] if ended_s else 0.0)
    columns = ("due_ms", "channel", "kernels_us", "latency_us")
    return {
        "name": run.name,
        "columns": columns,
        "slots": [
            [
                round((one.due_s - first_s) * 1e3, 3),
                one.channel,
                *(
                    None if math.isnan(us) else round(us, 1)
                    for us in (one.kernels_us, one.latency_us)
                ),
            ]
            for one in slots
        ],
        "steps_ended_ms": [round((one - first_s) * 1e3, 3) for one in ended_s],
    }
