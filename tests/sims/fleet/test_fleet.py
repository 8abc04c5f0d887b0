"""Whole simulations: the same to the bit, resumable, and what the policies come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from airan.core.errors import ConfigError, NotFoundError
from sims.fleet import account, runner, traffic
from sims.fleet.account import Account
from sims.fleet.scenario import SHIPPED, Scenario, load
from sims.fleet.site import SiteTask, simulate_site

HERE = runner.in_processes(1)


def _scenario(**changes: object) -> Scenario:
    return load("site-day", changes)


def _small(**changes: object) -> Scenario:
    """Three sites for a day, in long steps: what counts is that they are the same."""
    return _scenario(cells=15, cells_per_site=5, step_s=900, warmup_days=3, **changes)


def _text(report: dict[str, object]) -> str:
    return json.dumps(report)


@pytest.fixture(scope="module")
def day() -> dict[str, dict[str, object]]:
    """The shipped site's day, by policy."""
    scenario = _scenario()
    report = runner.run(scenario, list(scenario.policies), HERE)
    return {one["policy"]: one for one in report["policies"]}


def test_demand_with_a_forecast_uses_nine_tenths_and_never_breaks_the_floor(day):
    demand = day["demand"]
    assert demand["utilisation"]["total"] >= 0.90
    assert demand["ran"]["floor_broken_s"] == 0.0
    assert demand["ran"]["short_s"] == 0.0


def test_the_ran_alone_uses_a_third(day):
    alone = day["ran-only"]
    assert 0.28 < alone["utilisation"]["total"] < 0.37
    assert alone["ai"]["tokens"] == 0
    assert alone["revenue_usd"] == 0.0


def test_policies_rank_as_they_should(day):
    used = {name: one["utilisation"]["total"] for name, one in day.items()}
    assert used["ran-only"] < used["static-60-40"] < used["demand"] <= used["oracle"] < 1.0
    assert day["demand"]["below_oracle"] == pytest.approx(used["oracle"] - used["demand"])


def test_the_ran_needs_the_same_under_every_policy(day):
    needs = [one["utilisation"]["ran"] for one in day.values()]
    assert needs == pytest.approx([needs[0]] * len(needs), rel=1e-9)


def test_a_fixed_share_below_the_need_raises_alarms_and_takes_leases_back(day):
    static = day["static-60-40"]
    assert static["ran"]["alarms"] > 10
    assert static["ai"]["preemptions"] > 0
    assert static["ran"]["late_share"] < 1e-4


def test_nothing_is_used_that_is_not_held(day):
    for one in day.values():
        for side in ("ran", "ai"):
            assert one["utilisation"][side] <= one["held"][side] + 1e-9
        assert one["held"]["ran"] + one["held"]["ai"] <= 1.0 + 1e-9


def test_every_request_is_done_refused_or_waits(day):
    for one in day.values():
        for counts in one["ai"]["tiers"].values():
            assert counts["completed"] + counts["refused"] <= counts["arrived"]


def test_the_same_seed_gives_the_same_bytes_and_another_another():
    first, again = (_text(runner.run(_small(), ["demand"], HERE)) for _ in range(2))
    assert first == again
    assert first != _text(runner.run(_small(seed=2), ["demand"], HERE))


def test_processes_give_the_same_bytes_as_one():
    scenario = _small()
    alone = runner.run(scenario, ["demand", "oracle"], HERE)
    assert _text(runner.run(scenario, ["demand", "oracle"], runner.in_processes(2))) == _text(alone)


class _Stopped(Exception):
    """The machine was switched off."""


def _stopping_after(n_sites: int) -> runner.Mapper:
    def mapped(tasks: Sequence[SiteTask]) -> Iterator[tuple[int, Account]]:
        for number, counted in HERE(tasks):
            if number == n_sites:
                raise _Stopped
            yield number, counted

    return mapped


@pytest.mark.parametrize("cut_off", [0, 40])
def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path: Path, cut_off: int):
    scenario, kept = _small(), tmp_path / "kept.jsonl"
    whole = _text(runner.run(scenario, ["demand", "oracle"], HERE))
    with pytest.raises(_Stopped):
        runner.run(scenario, ["demand", "oracle"], _stopping_after(4), resume=kept)
    # A line that was being written when it stopped.
    kept.write_text(kept.read_text()[: len(kept.read_text()) - cut_off])
    heard: list[tuple[int, int]] = []
    again = runner.run(
        scenario,
        ["demand", "oracle"],
        HERE,
        resume=kept,
        tell=lambda done, of: heard.append((done, of)),
    )
    assert heard[0] == (3 if cut_off else 4, 6)
    assert heard[-1] == (6, 6)
    assert _text(again) == whole
    finished = runner.run(scenario, ["demand", "oracle"], _stopping_after(0), resume=kept)
    assert _text(finished) == whole


def test_another_scenarios_file_is_not_resumed(tmp_path: Path):
    kept = tmp_path / "kept.jsonl"
    runner.run(_small(), ["ran-only"], HERE, resume=kept)
    with pytest.raises(ConfigError, match="another scenario"):
        runner.run(_small(seed=2), ["ran-only"], HERE, resume=kept)
    kept.write_text("no JSON\n")
    with pytest.raises(ConfigError, match="no interrupted simulation"):
        runner.run(_small(), ["ran-only"], HERE, resume=kept)


def test_an_unknown_policy_is_refused_with_those_there_are():
    with pytest.raises(NotFoundError, match="oracle"):
        runner.run(_small(), ["best"], HERE)


def _account(scenario: Scenario, policy: str = "demand") -> Account:
    shares = traffic.ran_demand(scenario)
    return simulate_site(SiteTask(scenario, policy, 0, shares[0]))


FAULTY = {
    "gpu_losses_per_year": 700.0,
    "gpu_repair_h": 1.0,
    "engine_deaths_per_year": 3000.0,
    "failing_calls": 0.1,
    "maintenance_every_days": 1.0,
}


def test_the_floor_holds_through_faults_while_there_are_gpus():
    scenario = _scenario(cells=60, cells_per_site=60, gpus_per_site=4, step_s=300, faults=FAULTY)
    counted = _account(scenario)
    assert counted.faults.keys() >= {"GPU lost", "engine dies", "maintenance"}
    # Longer than it takes to make the RAN's new part on another GPU: never.
    lost = counted.faults["GPU lost"]
    assert counted.floor_broken_s <= 0.5 * lost
    assert counted.outage_s == 0.0
    assert counted.ai_worked > 0.0


def test_a_site_that_loses_its_only_gpu_is_out_until_it_is_back():
    scenario = _scenario(step_s=300, faults={"gpu_losses_per_year": 2000.0, "gpu_repair_h": 1.0})
    counted = _account(scenario)
    assert 0.0 < counted.outage_s < counted.site_seconds
    # What is not there cannot be broken.
    assert counted.floor_broken_s <= 0.5 * counted.faults["GPU lost"]


def test_mig_strands_what_green_contexts_use():
    by_kind = {}
    for kind in ("mig", "green"):
        scenario = _scenario(partition=kind, step_s=300)
        found = account.summary("demand", scenario, [_account(scenario)])
        assert found["ran"]["floor_broken_s"] == 0.0
        by_kind[kind] = found["utilisation"]["total"]
    assert by_kind["mig"] < by_kind["green"]


def test_faults_are_the_same_under_every_policy():
    scenario = _scenario(
        cells=40,
        cells_per_site=40,
        gpus_per_site=2,
        step_s=900,
        faults=FAULTY | {"failing_calls": 0},
    )
    first, other = (_account(scenario, name).faults for name in ("demand", "static-60-40"))
    assert first == other


def test_the_trace_of_azures_form_is_played(tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:00:00.0000000,400,100\n"
        "2023-11-16 18:30:00.0000000,600,50\n"
    )
    llm = {"trace": {"path": str(trace), "tier": "priority", "times": 3}}
    stream = traffic.requests(_scenario(step_s=900, llm=llm), 0)[0]
    # Two requests in three steps, 32 times a day.
    assert stream.requests.sum() == 3 * 2 * 32
    assert stream.context_tokens.sum() == 3 * 1000 * 32
    assert list(stream.requests[:4]) == [3, 0, 3, 3]


def test_measured_sizing_needs_fewer_sms_than_published():
    share = {
        sizing: traffic.ran_demand(_scenario(step_s=900, ran={"sizing": sizing})).mean()
        for sizing in ("published", "measured")
    }
    assert 0.0 < share["measured"] < share["published"]


def test_neighbouring_sites_are_loaded_alike():
    scenario = _scenario(cells=80, cells_per_site=20, step_s=900, days=7)
    shares = traffic.ran_demand(scenario)
    assert shares.shape == (4, (14 + 7) * 96)
    assert np.corrcoef(shares).min() > 0.7


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_scenario_is_valid(path: Path):
    found = load(path.stem)
    assert found.name == path.stem
    assert found.description


def test_the_demos_day_comes_out_as_it_was_recorded():
    report = runner.run(load("demo-day"), ["demand"], HERE)
    found = report["policies"][0]
    # Of the run that the scenario's file names, by its own databases.
    assert found["utilisation"]["total"] == pytest.approx(0.633, rel=0.05)
    assert found["utilisation"]["ran"] == pytest.approx(0.470, rel=0.01)
    assert found["held"]["ai"] == pytest.approx(0.216, rel=0.05)
    assert found["ai"]["tokens"] == pytest.approx(2309, rel=0.05)
    assert found["ai"]["revocations"] == pytest.approx(9, abs=1)
    assert found["ai"]["preemptions"] == pytest.approx(8, abs=1)


def test_a_measured_series_that_is_too_short_is_refused(tmp_path: Path):
    (tmp_path / "short.csv").write_text("time,share\n0,0.5\n3600,0.6\n")
    text = "ran: {series: short.csv}\ndays: 3\nwarmup_days: 0\npolicies: {demand: {}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="too early"):
        traffic.ran_demand(load(str(tmp_path / "mine.yaml")))
