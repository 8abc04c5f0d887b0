"""The RAN's side of the control plane: what it learnt of the season outlives a restart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.alarm import AlarmSettings
from orchestrator.demand import DemandSettings
from orchestrator.policy import Policy
from orchestrator.ran import RanSide
from orchestrator.store import Store
from orchestrator.views import SlotReport

BIN_S, DAY_BINS = 900.0, 96
POLICY = Policy(min_lease_s=12 * 3600.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "control.sqlite")
    yield store
    store.close()


def ran_side(store: Store) -> RanSide:
    return RanSide(store, 0.0, DemandSettings(), AlarmSettings())


def report(ran: RanSide, time_s: float, share: float) -> None:
    ran.take(SlotReport("cell-1", time_s, demand_share=share), time_s)


def day_load(time_s: float) -> float:
    return 0.1 + 0.6 * math.exp(-0.5 * ((time_s / 3600.0 % 24.0 - 12.0) / 2.0) ** 2)


def test_the_season_outlives_a_restart(store: Store) -> None:
    ran = ran_side(store)
    for step in range(3 * DAY_BINS + 1):
        report(ran, step * BIN_S, day_load(step * BIN_S))
    ran.save()
    again = ran_side(store)
    midnight_s = 3 * DAY_BINS * BIN_S
    for step in range(1, 20):
        report(again, midnight_s + 0.5 * step, 0.1)
    demand = again.demand(POLICY, midnight_s + 9.5, 2.0)
    assert demand.forecast_share < 0.15
    assert demand.sustained_share == pytest.approx(0.7, abs=0.05)
    assert "season of day from 3 days" in demand.source


def test_the_season_is_stored_once_a_bin(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = ran_side(store)
    stored: list[str] = []
    monkeypatch.setattr(store, "set_value", lambda key, value: stored.append(key))
    for time_s in (0.0, 100.0, 900.0, 1000.0, 1800.0):
        report(ran, time_s, 0.2)
        ran.save()
    assert stored.count("season") == 2
    assert stored.count("slots") == 5
