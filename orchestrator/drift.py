"""Differences between what an applied plan left behind and what is there, told once each."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.hub import EventLog
from orchestrator.pool import Inventory, Plan
from orchestrator.reconcile import differences


class DriftWatch:
    """Knows the present drift; `on_count` hears how many differences there are."""

    def __init__(self, log: EventLog, on_count: Callable[[int], None]) -> None:
        self._log, self._on_count = log, on_count
        self.found: tuple[str, ...] = ()
        """The differences, in words."""

    def tell(self, applied: Plan, inventory: Inventory, *, mends: bool) -> None:
        """Records how the inventory differs from the plan, once for every difference."""
        found = differences(applied, inventory)
        if found != self.found:
            what = "is mended" if mends else "is left as it is, by policy"
            message = f"plan {applied.generation} {what}: {'; '.join(found)}"
            self._log.record("plan.drift", message, "warning")
        self._set(found)

    def end(self) -> None:
        """Records that there is none any more, if there was some."""
        if self.found:
            self._set(())
            self._log.record("plan.drift_ended", "the partitions are as the plan left them")

    def _set(self, found: tuple[str, ...]) -> None:
        self.found = found
        self._on_count(len(found))
