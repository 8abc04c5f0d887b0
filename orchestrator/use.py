"""What the RAN and the AI make of the pool: counted, stored and shown as metrics."""

from __future__ import annotations

from airan.core.errors import InvalidInputError
from orchestrator.accounting import Shares, UseTotals
from orchestrator.metrics import Metrics
from orchestrator.pool import Demand, Inventory, role_sms
from orchestrator.store import Store
from orchestrator.views import Lease, Utilisation


class UseAccount:
    """Totals since the site's start; `site_started_s` and `now_s` in Unix seconds."""

    def __init__(self, store: Store, metrics: Metrics, site_started_s: float, now_s: float) -> None:
        self._store, self._metrics = store, metrics
        self._totals = UseTotals.restored(store.value("use"), site_started_s, now_s)
        self._shares = Shares()
        self._sm_total = 0

    def take(self, inventory: Inventory, ran_share: float, now_s: float) -> None:
        """Counts the time since the last call, then goes by this inventory and measured demand."""
        self._totals.advance(now_s, self._shares)
        total = inventory.sm_count
        if total:
            self._sm_total = total
            leased = sum(part.sm_count for part in inventory.partitions if part.leased)
            held = role_sms(inventory.partitions, "ran")
            self._shares = Shares(ran_share, held / total, leased / total)
        for role in ("ran", "ai", "free"):
            self._metrics.partition_sms.labels(role).set(role_sms(inventory.partitions, role))
        self.save()

    def show_demand(self, demand: Demand) -> None:
        """Sets the demand's gauges."""
        self._metrics.demand_share.labels("now").set(demand.now_share)
        self._metrics.demand_share.labels("forecast").set(demand.forecast_share)

    def add_busy(self, lease: Lease, interval_s: float, busy_s: float) -> None:
        """Counts for how long of an interval the lease's engine was generating.

        Raises:
            InvalidInputError: impossible times.
        """
        if not 0.0 <= busy_s <= interval_s * 1.01 + 1e-3:
            raise InvalidInputError(
                "busy_s", f"must lie between 0 and interval_s ({interval_s}), got {busy_s}"
            )
        self._totals.add_busy(lease.sm_count / max(1, self._sm_total), min(busy_s, interval_s))

    def count_end(self, lease: Lease) -> None:
        """Counts a lease that has ended."""
        self._metrics.leases_ended.labels(lease.end_reason).inc()
        if lease.revoked_s:
            self._metrics.reclaim_seconds.observe(lease.ended_s - lease.revoked_s)

    def utilisation(self) -> Utilisation:
        """Time-weighted means since the site's start."""
        return self._totals.utilisation()

    def save(self) -> None:
        """Stores the totals."""
        self._store.set_value("use", self._totals.body())
