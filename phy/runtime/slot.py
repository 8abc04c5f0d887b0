"""What happened to slots: one record a slot, one summary a window."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from phy.runtime.timing import SlotTiming

# Edges of the latency histogram as parts of the budget; the budget itself is one.
_EDGE_FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0)


class SlotStatus(StrEnum):
    """How an uplink slot fared."""

    ON_TIME = "on_time"
    LATE = "late"
    DROPPED = "dropped"


@dataclass(frozen=True)
class SlotRecord:
    """One uplink slot. Times are us of wall time on the slowed slot clock.

    Attributes:
        slot: index of the slot since the runtime's start.
        n_prb: PRBs it carried.
        status: on time, late, or dropped without being received.
        crc_ok: the transport block was decoded; False for a dropped slot.
        latency_us: from the scheduled arrival to the decoded block; NaN for a dropped slot.
        processing_us: from the start of its reception to the decoded block; 0 for a dropped slot.
        snr_db: estimated; NaN for a dropped slot.
        error: what the receiver raised, if it did.
    """

    slot: int
    n_prb: int
    status: SlotStatus
    crc_ok: bool
    latency_us: float
    processing_us: float
    snr_db: float
    error: str | None = None

    @property
    def good(self) -> bool:
        """A transport block that counts: decoded, and in time. A late one never does."""
        return self.crc_ok and self.status is SlotStatus.ON_TIME


@dataclass(frozen=True)
class SlotWindow:
    """Summary of the uplink slots of a stretch of time. Times are us on the slowed slot clock.

    Attributes:
        first_slot: index of the first slot in it; -1 if there is none.
        slots: uplink slots with an allocation: on time, late and dropped together.
        on_time: received within the budget.
        late: received after it.
        dropped: not received, because too many waited.
        crc_failed: received, on time or late, but not decoded.
        idle: uplink slots without an allocation.
        stalls: slots for which the slot clock stood still, because the radio simulation was not
            ready in time.
        p50_us, p99_us, max_us: latency of the received slots; NaN if there were none.
        busy_share: part of the time spent receiving, 0 to 1.
        mean_n_prb: mean PRBs over all uplink slots, idle ones included.
        budget_us: the deadline on the slowed clock.
        slowdown: how many times slower than a radio's the slot clock runs.
        edges_us: upper edges of the histogram's buckets, the budget among them.
        counts: received slots in each bucket, one more than edges: the last is above all edges.
    """

    first_slot: int
    slots: int
    on_time: int
    late: int
    dropped: int
    crc_failed: int
    idle: int
    stalls: int
    p50_us: float
    p99_us: float
    max_us: float
    busy_share: float
    mean_n_prb: float
    budget_us: float
    slowdown: float
    edges_us: tuple[float, ...]
    counts: tuple[int, ...]


def histogram_edges_us(timing: SlotTiming) -> tuple[float, ...]:
    """Returns the upper edges of the latency histogram; `timing.deadline_us` is one of them."""
    return tuple(timing.deadline_us * fraction for fraction in _EDGE_FRACTIONS)


@dataclass
class WindowBuilder:
    """Collects records until the window is closed."""

    timing: SlotTiming
    started_us: float = 0.0
    _records: list[SlotRecord] = field(default_factory=list)
    _idle: int = 0
    _stalls: int = 0

    def add(self, record: SlotRecord) -> None:
        """Counts one slot."""
        self._records.append(record)

    def add_idle(self) -> None:
        """Counts an uplink slot without an allocation."""
        self._idle += 1

    def add_stall(self) -> None:
        """Counts a slot that the radio simulation was not ready for."""
        self._stalls += 1

    def close(self, now_us: float) -> SlotWindow:
        """Returns the summary up to `now_us` and starts the next window there."""
        records, timing = self._records, self.timing
        received = [r for r in records if r.status is not SlotStatus.DROPPED]
        latencies = sorted(r.latency_us for r in received)
        edges = histogram_edges_us(timing)
        counts = [0] * (len(edges) + 1)
        for latency in latencies:
            counts[bisect_left(edges, latency)] += 1
        elapsed_us = now_us - self.started_us
        busy_us = sum(r.processing_us for r in received)
        n_uplink = len(records) + self._idle
        window = SlotWindow(
            first_slot=records[0].slot if records else -1,
            slots=len(records),
            on_time=sum(r.status is SlotStatus.ON_TIME for r in records),
            late=sum(r.status is SlotStatus.LATE for r in records),
            dropped=len(records) - len(received),
            crc_failed=sum(not r.crc_ok for r in received),
            idle=self._idle,
            stalls=self._stalls,
            p50_us=percentile(latencies, 0.5),
            p99_us=percentile(latencies, 0.99),
            max_us=latencies[-1] if latencies else math.nan,
            busy_share=min(busy_us / elapsed_us, 1.0) if elapsed_us > 0 else 0.0,
            mean_n_prb=sum(r.n_prb for r in records) / n_uplink if n_uplink else 0.0,
            budget_us=timing.deadline_us,
            slowdown=timing.slowdown,
            edges_us=edges,
            counts=tuple(counts),
        )
        self._records, self._idle, self._stalls, self.started_us = [], 0, 0, now_us
        return window


def percentile(ascending: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` of all do not exceed; NaN if none."""
    if not ascending:
        return math.nan
    return ascending[max(math.ceil(share * len(ascending)) - 1, 0)]
