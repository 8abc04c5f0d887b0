"""`airan simulate` as it is typed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airan.cli.main import app
from airan.core.errors import ConfigError, NotFoundError

SCENARIO = """\
cells: 10
cells_per_site: 5
step_s: 900
warmup_days: 3
llm: {tiers: [{tier: flex, requests_per_s: 20}]}
policies:
  demand: {headroom: 0.05}
  ran-only: {kind: static, ran_share: 1.0}
  oracle: {kind: oracle}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO)
    return str(path)


def _typed(*words: str) -> str:
    result = CliRunner().invoke(app, ["simulate", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_run_prints_a_table_and_writes_what_economics_takes(scenario: str, tmp_path: Path):
    report = tmp_path / "report.json"
    printed = _typed("run", scenario, "--workers", "1", "--days", "2", "--json", str(report))
    assert "simulated: 10 cells at 2 sites" in printed
    written = json.loads(report.read_text())
    assert written["days"] == 2
    assert [one["policy"] for one in written["policies"]] == ["demand"]
    assert written["utilisation"].keys() == {"ran", "ai", "total"}
    assert written["utilisation"] == written["policies"][0]["utilisation"]
    assert written["utilisation"]["total"] == pytest.approx(
        written["utilisation"]["ran"] + written["utilisation"]["ai"]
    )


def test_compare_takes_every_policy_and_resumes(scenario: str, tmp_path: Path):
    files = [tmp_path / name for name in ("first.json", "again.json")]
    kept = tmp_path / "kept.jsonl"
    for file in files:
        _typed("compare", scenario, "--workers", "1", "--resume", str(kept), "--json", str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
    found = json.loads(files[0].read_text())["policies"]
    assert [one["policy"] for one in found] == ["demand", "ran-only", "oracle"]
    assert all("below_oracle" in one for one in found)


def test_one_policy_can_be_asked_for(scenario: str, tmp_path: Path):
    report = tmp_path / "report.json"
    _typed("run", scenario, "--policy", "ran-only", "--workers", "1", "--json", str(report))
    assert json.loads(report.read_text())["utilisation"]["ai"] == 0.0


def test_a_sweep_plays_every_seed_as_a_run_would(scenario: str, tmp_path: Path):
    swept, alone = tmp_path / "swept.json", tmp_path / "alone.json"
    printed = _typed("sweep", scenario, "--seeds", "3", "--workers", "1", "--json", str(swept))
    assert "mine" in printed
    _typed("run", scenario, "--seed", "2", "--workers", "1", "--json", str(alone))
    reports = json.loads(swept.read_text())
    assert [one["seed"] for one in reports] == [1, 2, 3]
    assert reports[1] == json.loads(alone.read_text())


def test_shipped_scenarios_are_listed():
    assert "tokyo-600-week" in _typed("list")


def test_errors_name_what_is_wrong(scenario: str):
    with pytest.raises(NotFoundError, match="policy 'best'"):
        _typed("run", scenario, "--policy", "best")
    Path(scenario).write_text(SCENARIO.replace("cells: 10", "cells: -1"))
    with pytest.raises(ConfigError, match="line 1, field cells"):
        _typed("run", scenario)


def test_a_csv_holds_what_each_tier_got(scenario: str, tmp_path: Path):
    report, rows = tmp_path / "report.json", tmp_path / "tiers.csv"
    _typed("compare", scenario, "--workers", "1", "--json", str(report), "--csv", str(rows))
    found = list(csv.DictReader(rows.read_text().splitlines()))
    assert [row["policy"] for row in found] == ["demand", "ran-only", "oracle"]
    assert {"refused_late", "refused_full", "preempted", "moved", "revenue_usd"} <= found[0].keys()
    told = json.loads(report.read_text())["policies"][0]["ai"]["tiers"]["flex"]
    assert int(found[0]["refused"]) == told["refused"]
