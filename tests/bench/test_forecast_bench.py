"""`airan bench forecast`: rows for every horizon and peer, and errors a user can mend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from airan.bench import forecast
from airan.bench.forecast import ForecastOptions, measure
from airan.cli.main import app
from airan.core.errors import ConfigError, InvalidInputError
from orchestrator.forecast_backtest import Series
from sims import ran_year


def series(days: int, cells: int) -> Series:
    load = ran_year.shares(cells, days, 900.0, 1).astype(float)
    return Series(load, int(ran_year.START_S // 900))


def test_every_horizon_is_compared_with_every_plain_rule() -> None:
    options = ForecastOptions(boosting=False)
    rows = list(measure(series(15, 2), "two generated cells", options, lambda _: None))
    named = {(row.name, row.peer) for row in rows}
    for horizon in ("15min", "1h", "4h"):
        for what in ("pinball", "coverage", "over_share", "worst_shortfall"):
            for peer in ("plain seasonal quantile", "last value", "peak so far"):
                assert (f"forecast_{what}_{horizon}", peer) in named
                assert (f"forecast_pool_{what}_{horizon}", peer) in named
    assert all("two generated cells" in row.hardware for row in rows if "pinball" in row.name)
    assert {"forecast_restart_s", "forecast_100_gpus_ms", "forecast_bin_us"} <= {
        row.name for row in rows
    }


def test_gradient_boosting_forecasts_without_knowing_the_future() -> None:
    pytest.importorskip("sklearn")
    from airan.bench.forecast_peer import boosting

    known = series(11, 1)
    other = known.shares.copy()
    other[10 * 96 :] = 0.5
    first = boosting(known, 4, 0.95, first_day=9, every_days=1)
    again = boosting(Series(other, known.first_bin), 4, 0.95, first_day=9, every_days=1)
    np.testing.assert_array_equal(first[: 10 * 96 + 4], again[: 10 * 96 + 4])
    assert np.isfinite(first[9 * 96 :]).all()
    assert np.isnan(first[: 9 * 96]).all()


def test_a_series_from_a_file_is_measured_through_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "find_spec", lambda name: None)
    path = tmp_path / "pool.csv"
    load = ran_year.shares(1, 16, 900.0, 1)[:, 0]
    lines = [f"{ran_year.START_S + 900 * step},{share}" for step, share in enumerate(load)]
    path.write_text("\n".join(["time,share", *lines]))
    result = CliRunner().invoke(app, ["bench", "forecast", "--csv", str(path), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    pinball = next(row for row in rows if row["name"] == "forecast_pinball_1h")
    assert pinball["peer"] == "plain seasonal quantile"
    assert "pool.csv" in pinball["hardware"]
    assert not any(row["name"].startswith("forecast_pool") for row in rows)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_text("time,share\n0,2\n")
    result = CliRunner().invoke(app, ["bench", "forecast", "--csv", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "pool.csv line 2" in str(result.exception)


def test_too_short_a_series_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 15 days"):
        list(measure(series(14, 1), "one cell", ForecastOptions(), lambda _: None))


def test_boosting_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match="scikit-learn is not installed"):
        list(measure(series(15, 1), "one", ForecastOptions(boosting=True), lambda _: None))
