"""The orchestrator through simulated days with random faults; `airan bench year` plays a year."""

from __future__ import annotations

import pytest

from airan.bench import year


@pytest.mark.parametrize("seed", [1, 2])
def test_no_floor_is_violated_and_no_lease_leaks(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten times as many faults as in the year, so that a few days have some of each.
    often = {name: min(0.3, 10 * chance) for name, chance in year._CHANCES.items()}
    monkeypatch.setattr(year, "_CHANCES", often)
    result = year.simulate(3, seed, n_gpus=2, say=lambda _: None)
    assert result.floor_violations == []
    assert result.leases_leaked == []
    assert result.overlaps == []
    assert result.plans > 20
    assert result.leases > 5
    assert sum(result.faults.values()) > 30
