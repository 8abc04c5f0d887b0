"""`airan economics` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from airan.cli.main import app
from airan.core.errors import ConfigError, InvalidInputError


def airan(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def airan_json(*words: str) -> Any:
    return json.loads(airan("--json", "economics", *words))


def test_run_writes_the_published_table_as_json_csv_and_a_page(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "html")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    printed = airan("economics", "run", "tokyo-600", *options)
    assert "219%" in printed
    cases = json.loads(files["json"].read_text())
    assert [round(case["ai_share"], 2) for case in cases] == [0.33, 0.67]
    assert [case["revenue_per_capex"] for case in cases] == pytest.approx([2, 5], rel=0.02)
    assert [case["roi"] for case in cases] == pytest.approx([0.33, 2.19], rel=0.02)
    assert files["csv"].read_text().count("tokyo-600,") == 2
    assert files["html"].read_text().startswith("<!doctype html>")


def test_compare_puts_platforms_side_by_side() -> None:
    bodies = airan_json("compare")
    watts = {body["scenario"]: body["cases"][0]["ran_watt_per_gbps"] for body in bodies}
    assert watts["tokyo-600"] < watts["custom-ran"] < watts["x86-vran"]
    assert "custom-ran 0% AI" in airan("economics", "compare", "tokyo-600", "custom-ran")


def test_sensitivity_is_sorted_by_what_moves_most() -> None:
    rows = airan_json("sensitivity", "tokyo-600", "--metric", "roi")
    widths = [abs(row["at_high"] - row["at_low"]) for row in rows]
    assert widths == sorted(widths, reverse=True)
    assert rows[0]["key"] == "ai.usd_per_server_hour"


def test_montecarlo_prints_intervals() -> None:
    body = airan_json("montecarlo", "tokyo-600", "--runs", "200", "--seed", "3")
    npv = next(s for s in body["spreads"] if s["metric"] == "npv_usd")["quantiles"]
    assert npv["p5"] < npv["p50"] < npv["p95"]
    assert "200 runs, seed 3" in airan(
        "economics", "montecarlo", "tokyo-600", "--runs", "200", "--seed", "3"
    )


def test_grid_and_goal_seek_answer() -> None:
    body = airan_json("grid", "tokyo-600", "ai_share=0.2:0.8:3", "opex.pue=1:2:2")
    assert len(body["values"]) == 3
    found = airan_json("goal-seek", "tokyo-600", "payback_month=24")
    assert found["key"] == "ai.usd_per_server_hour"
    assert found["reached"] == 24


def test_a_simulations_utilisation_is_taken_by_one_flag(tmp_path: Path) -> None:
    path = tmp_path / "week.json"
    path.write_text('{"utilisation": {"ran": 0.3, "ai": 0.6}}')
    body = airan_json("run", "tokyo-600", "--utilisation", str(path))
    assert len(body["cases"]) == 1
    assert any(one["source"] == "simulated: week.json" for one in body["inputs"])


def test_mistakes_are_told_by_name(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: tokyo-600\ncases: [2]\n")
    with pytest.raises(ConfigError, match=r"bad.yaml:2: cases\[0\]"):
        airan("economics", "run", str(bad))
    with pytest.raises(InvalidInputError, match="INPUT=LOW:HIGH:STEPS"):
        airan("economics", "grid", "tokyo-600", "opex.pue=1", "ai_share=0:1:2")
