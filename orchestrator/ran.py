"""What the RAN tells: slot reports in, demand, alarm, cells and slot counts out."""

from __future__ import annotations

from airan.core.errors import InvalidInputError
from orchestrator.accounting import SlotTotals
from orchestrator.alarm import AlarmGate, AlarmSettings
from orchestrator.demand import DemandEstimator, DemandSettings
from orchestrator.drivers import processes
from orchestrator.forecast import SeasonalForecaster
from orchestrator.plan import Demand
from orchestrator.policy import Policy
from orchestrator.store import Store
from orchestrator.views import CellView, SlotReport, SlotStats


class RanSide:
    """Takes slot reports in and answers for the RAN."""

    def __init__(
        self, store: Store, site_started_s: float, demand: DemandSettings, alarm: AlarmSettings
    ) -> None:
        self._store = store
        season = SeasonalForecaster.restored(store.value("season"), demand.season)
        self._saved_bin = season.last_bin
        self._estimator = DemandEstimator(demand, store.demand(), season)
        self._gate = AlarmGate(alarm)
        self._slots = SlotTotals.restored(store.value("slots"), site_started_s)
        self._last_of: dict[str, SlotReport] = {}

    def take(self, report: SlotReport, now_s: float) -> str:
        """Takes a report in; returns why it raises the alarm, or nothing.

        A report sent again (same cell and time) is ignored.

        Raises:
            InvalidInputError: the report contradicts itself.
        """
        check_report(report)
        last = self._last_of.get(report.cell_id)
        if last is not None and report.time_s <= last.time_s:
            return ""
        self._last_of[report.cell_id] = report
        self._slots.add(report)
        # Dated by our clock: what matters is how long ago we heard of it.
        self._estimator.add(now_s, report.demand_share)
        self._store.add_demand(now_s, report.demand_share, self._estimator.settings.keep_s)
        return self._gate.take(report, now_s)

    def demand(self, policy: Policy, now_s: float, horizon_s: float) -> Demand:
        """What the RAN needs now and by forecast."""
        return self._estimator.demand(now_s, horizon_s, policy.min_lease_s, policy.ran_share)

    def measured_share(self, now_s: float) -> float:
        """The demand last reported; 0 while there is no fresh report."""
        return self._estimator.last_share if self.reports(now_s) else 0.0

    def reports(self, now_s: float) -> bool:
        """Whether cells have reported lately, and so are running."""
        return self._estimator.is_fresh(now_s)

    def alarm_is_raised(self, now_s: float) -> bool:
        """Whether no AI partition may be leased out."""
        return self._gate.is_raised(now_s)

    def cells(self) -> tuple[CellView, ...]:
        """The cells as last reported."""
        cells: dict[str, CellView] = {}
        for report in self._last_of.values():
            cells |= {cell.id: cell for cell in report.cells}
        return tuple(cells.values())

    def slots(self) -> SlotStats:
        """Slot counts since the site's start."""
        return self._slots.stats

    def save(self) -> None:
        """Stores the slot counts and, once a bin is complete, what the season is learnt from."""
        self._store.set_value("slots", self._slots.body())
        season = self._estimator.season
        if season.last_bin != self._saved_bin:
            self._store.set_value("season", season.body())
            self._saved_bin = season.last_bin

    def live_pid(self) -> int:
        """The slot runtime's process; 0 while unknown or gone."""
        newest = max(self._last_of.values(), key=lambda one: one.time_s, default=None)
        if newest is None or processes.started_s(newest.pid) is None:
            return 0
        return newest.pid


def check_report(report: SlotReport) -> None:
    """Returns if a slot report makes sense.

    Raises:
        InvalidInputError: it does not.
    """
    if not report.cell_id:
        raise InvalidInputError("cell_id", "must not be empty")
    if not report.demand_share >= 0.0:
        raise InvalidInputError(
            "demand_share", f"must not be negative or NaN, got {report.demand_share}"
        )
    if max(report.slots_late, report.crc_failed) > report.slots:
        raise InvalidInputError("slots", "fewer slots than late or failed ones")
    for cell in report.cells:
        if not 0.0 <= cell.load <= 1.0:
            raise InvalidInputError(
                "cells.load", f"of {cell.id} must lie in [0, 1], not {cell.load}"
            )
    edges = report.histogram_edges_us
    if edges and len(report.histogram_counts) != len(edges) + 1:
        raise InvalidInputError(
            "histogram_counts", f"needs {len(edges) + 1} counts, one per edge and the overflow"
        )
