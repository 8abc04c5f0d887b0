"""The fast path: slots that come too near their budget take the AI's leases away at once.

A late or dropped slot, or a p99 near the budget, raises the alarm by itself; a report that only
says "near miss" does so when it comes again and again. The alarm holds for a while after the
last cause, and longer each time it comes back soon, so that the site does not flap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from orchestrator.views import SlotReport


@dataclass(frozen=True)
class AlarmSettings:
    """When the alarm is raised and how long it holds. Times are wall seconds."""

    lost_slots: int = 1
    """So many slots late or dropped in one report are an alarm. More than one where a faster path
    has answered the first already."""
    p99_fraction: float = 0.95
    """Of the slot budget: a p99 above it is an alarm."""
    p99_slots: int = 1
    """That a report must have received for its p99 to count: of few it is the longest one's."""
    near_misses: int = 3
    """So many near misses within `near_miss_s` are an alarm."""
    near_miss_s: float = 3.0
    hold_s: float = 2.0
    """After the last cause."""
    max_hold_s: float = 8.0
    repeat_s: float = 10.0
    """An alarm within this time after the last one holds twice as long."""


class AlarmGate:
    """Tells from slot reports whether AI leases may stand."""

    def __init__(self, settings: AlarmSettings | None = None) -> None:
        self._settings = settings or AlarmSettings()
        self._near_misses_s: deque[float] = deque()
        self._hold_s = self._settings.hold_s
        self._until_s = float("-inf")

    def take(self, report: SlotReport, now_s: float) -> str:
        """Why the report raises the alarm (or prolongs it); empty if it does not."""
        cause = self._cause(report, now_s)
        if not cause:
            return ""
        if not self.is_raised(now_s):
            again = now_s - self._until_s < self._settings.repeat_s
            longer = min(self._settings.max_hold_s, 2 * self._hold_s)
            self._hold_s = longer if again else self._settings.hold_s
        self._until_s = now_s + self._hold_s
        return cause

    def is_raised(self, now_s: float) -> bool:
        """Whether the alarm is raised or still held."""
        return now_s < self._until_s

    def _cause(self, report: SlotReport, now_s: float) -> str:
        lost = report.slots_late + report.slots_dropped
        if lost >= self._settings.lost_slots:
            return f"{lost} of {report.slots} slots late or dropped on {report.cell_id}"
        if self._is_p99_near(report):
            return (
                f"slot p99 {report.p99_us:.0f} us of {report.budget_us:.0f} us on"
                f" {report.cell_id} (slot clock slowed {report.slowdown:g}x)"
            )
        if not report.alarm:
            return ""
        self._near_misses_s.append(now_s)
        while self._near_misses_s[0] < now_s - self._settings.near_miss_s:
            self._near_misses_s.popleft()
        if len(self._near_misses_s) < self._settings.near_misses:
            return ""
        return f"{len(self._near_misses_s)} near misses within {self._settings.near_miss_s:g} s"

    def _is_p99_near(self, report: SlotReport) -> bool:
        n_received = sum(report.histogram_counts) or report.slots
        if report.budget_us <= 0 or n_received < self._settings.p99_slots:
            return False
        return report.p99_us > self._settings.p99_fraction * report.budget_us
