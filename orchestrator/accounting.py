"""How well the pool is used, and what the slots did: totals since the site's start.

The totals are stored, so that they outlive the control plane's own restarts; a new start of the
site begins anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.views import SlotReport, SlotStats, Utilisation


@dataclass
class Shares:
    """Shares of the pool's SMs that hold from one moment to the next."""

    ran_demand: float = 0.0
    ran_held: float = 0.0
    ai_leased: float = 0.0


@dataclass
class UseTotals:
    """Share-seconds since the site's start."""

    started_s: float
    until_s: float
    ran_demand: float = 0.0
    ran_held: float = 0.0
    ai_leased: float = 0.0
    ai_busy: float = 0.0

    @staticmethod
    def restored(body: dict[str, Any] | None, started_s: float, now_s: float) -> UseTotals:
        """The stored totals if they are of this start of the site, otherwise new ones."""
        if body is not None and body["started_s"] == started_s:
            return UseTotals(**body)
        return UseTotals(started_s, now_s)

    def advance(self, now_s: float, shares: Shares) -> None:
        """Counts the time since the last call with these shares."""
        seconds = max(0.0, now_s - self.until_s)
        self.until_s = max(self.until_s, now_s)
        self.ran_demand += shares.ran_demand * seconds
        self.ran_held += shares.ran_held * seconds
        self.ai_leased += shares.ai_leased * seconds

    def add_busy(self, share: float, busy_s: float) -> None:
        """Counts an engine that generated for `busy_s` on `share` of the pool."""
        self.ai_busy += share * busy_s

    def utilisation(self) -> Utilisation:
        """Time-weighted means since the site's start."""
        seconds = max(1e-9, self.until_s - self.started_s)
        ran, busy = self.ran_demand / seconds, self.ai_busy / seconds
        return Utilisation(
            ran_demand_share=ran,
            ai_busy_share=busy,
            total_share=ran + busy,
            ran_held_share=self.ran_held / seconds,
            ai_leased_share=self.ai_leased / seconds,
        )

    def body(self) -> dict[str, Any]:
        """What `restored` takes."""
        return asdict(self)


@dataclass
class SlotTotals:
    """Slot counts since the site's start, with the last report's latencies."""

    started_s: float
    stats: SlotStats

    @staticmethod
    def restored(body: dict[str, Any] | None, started_s: float) -> SlotTotals:
        """The stored totals if they are of this start of the site, otherwise new ones."""
        if body is None or body["started_s"] != started_s:
            return SlotTotals(started_s, SlotStats())
        stats = dict(body["stats"])
        for name in ("histogram_counts", "histogram_edges_us"):
            stats[name] = tuple(stats[name])
        return SlotTotals(started_s, SlotStats(**stats))

    def add(self, report: SlotReport) -> None:
        """Counts a report in. A histogram with other edges replaces the one so far."""
        old = self.stats
        # A report without a received slot says nothing of latencies: those before it still hold.
        latest = report if report.max_us > 0.0 else old
        counts = report.histogram_counts
        if old.histogram_edges_us == report.histogram_edges_us and old.histogram_counts:
            pairs = zip(old.histogram_counts, counts, strict=True)
            counts = tuple(before + new for before, new in pairs)
        self.stats = replace(
            old,
            slots=old.slots + report.slots,
            slots_late=old.slots_late + report.slots_late,
            slots_dropped=old.slots_dropped + report.slots_dropped,
            crc_failed=old.crc_failed + report.crc_failed,
            stalls=old.stalls + report.stalls,
            p50_us=latest.p50_us,
            p99_us=latest.p99_us,
            max_us=latest.max_us,
            budget_us=report.budget_us,
            slowdown=report.slowdown,
            device=report.device,
            busy_share=report.busy_share,
            histogram_counts=counts,
            histogram_edges_us=report.histogram_edges_us,
            last_report_s=report.time_s,
        )

    def body(self) -> dict[str, Any]:
        """What `restored` takes."""
        return asdict(self)
