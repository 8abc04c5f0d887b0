"""Totals since the site's start, across restarts of the control plane."""

from __future__ import annotations

import json

import pytest

from orchestrator.accounting import Shares, SlotTotals, UseTotals
from orchestrator.views import SlotReport


def report(
    slots: int, counts: tuple[int, ...], edges: tuple[float, ...] = (10.0, 20.0)
) -> SlotReport:
    return SlotReport(
        "cell-1",
        float(slots),
        slots=slots,
        slots_late=1,
        p99_us=5.0 * slots,
        max_us=6.0 * slots,
        histogram_counts=counts,
        histogram_edges_us=edges,
    )


def test_shares_are_weighted_by_the_time_they_held() -> None:
    totals = UseTotals(started_s=0.0, until_s=0.0)
    totals.advance(4.0, Shares(ran_demand=0.2, ran_held=0.5, ai_leased=0.4))
    totals.advance(10.0, Shares(ran_demand=0.7, ran_held=1.0, ai_leased=0.0))
    totals.add_busy(0.4, 3.0)
    found = totals.utilisation()
    assert found.ran_demand_share == pytest.approx((0.2 * 4 + 0.7 * 6) / 10)
    assert found.ran_held_share == pytest.approx(0.8)
    assert found.ai_leased_share == pytest.approx(0.16)
    assert found.ai_busy_share == pytest.approx(0.12)
    assert found.total_share == pytest.approx(found.ran_demand_share + 0.12)


def test_totals_go_on_after_a_restart_and_begin_anew_with_the_site() -> None:
    totals = UseTotals(started_s=100.0, until_s=100.0)
    totals.advance(110.0, Shares(ran_demand=0.5))
    body = json.loads(json.dumps(totals.body()))
    assert UseTotals.restored(body, 100.0, 112.0) == totals
    assert UseTotals.restored(body, 111.0, 112.0).ran_demand == 0.0


def test_slot_counts_add_up_and_survive_a_restart() -> None:
    totals = SlotTotals.restored(None, 1.0)
    totals.add(report(10, (5, 4, 1)))
    totals = SlotTotals.restored(json.loads(json.dumps(totals.body())), 1.0)
    totals.add(report(20, (20, 0, 0)))
    stats = totals.stats
    assert (stats.slots, stats.slots_late, stats.p99_us) == (30, 2, 100.0)
    assert stats.histogram_counts == (25, 4, 1)
    assert SlotTotals.restored(totals.body(), 2.0).stats.slots == 0


def test_a_histogram_with_other_edges_starts_anew() -> None:
    totals = SlotTotals.restored(None, 1.0)
    totals.add(report(10, (5, 4, 1)))
    totals.add(report(10, (9, 1), edges=(50.0,)))
    assert totals.stats.histogram_counts == (9, 1)


def test_latencies_stay_those_of_the_last_slot_while_there_is_none() -> None:
    totals = SlotTotals.restored(None, 1.0)
    totals.add(report(10, (5, 4, 1)))
    totals.add(report(0, (0, 0, 0)))
    assert (totals.stats.slots, totals.stats.p99_us, totals.stats.max_us) == (10, 50.0, 60.0)
