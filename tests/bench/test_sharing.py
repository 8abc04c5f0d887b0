"""`airan bench sharing`: its pure parts, and its processes with simulated sides."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from airan.bench.sharing import process, report, run
from airan.bench.sharing.report import RunResult
from airan.bench.sharing.ways import WHOLE, Run, runs, way
from airan.core.errors import InvalidInputError
from orchestrator.drivers.mps import MpsDaemon
from phy.gpu.bench_slots import TracedSlot, _Work
from phy.gpu.module import GpuUnavailableError, require_cupy
from phy.gpu.outcome import SentSlot, SlotOutcome, UeStatus

SIMULATED = (sys.executable, str(Path(__file__).with_name("simulated_side.py")))
FAKE_MPS = Path(__file__).parents[1] / "orchestrator" / "fake_mps_daemon.py"


@pytest.fixture
def simulated_sides(monkeypatch) -> None:
    """Runs take their figures from a simulated side, and MPS from a fake daemon."""
    start = process.SideProcess.__init__

    def simulated(self, order, environment, folder) -> None:
        start(self, order, environment, folder, SIMULATED)

    monkeypatch.setattr(process.SideProcess, "__init__", simulated)
    monkeypatch.setattr(run, "MpsDaemon", lambda folder: MpsDaemon(folder, str(FAKE_MPS)))
    monkeypatch.setattr(run, "_SETTLE_S", 0.05)


def slot(index: int, kernels_us: float, latency_us: float, channel: str = "pdsch") -> TracedSlot:
    return TracedSlot(index, channel, 10 + index * 5e-4, kernels_us, kernels_us, latency_us)


def test_ways_are_read_from_their_names() -> None:
    assert not way("time-sliced").is_mps
    assert way("mps").is_mps
    assert not way("mps").is_limited
    assert (way("mps-30-70").slots_percent, way("mps-30-70").ai_percent) == (30, 70)
    assert way("green-64").slots_sms == 64


@pytest.mark.parametrize("name", ["mig", "mps-0-70", "mps-30-101", "green-0", "mps-30"])
def test_unknown_ways_are_refused(name) -> None:
    with pytest.raises(InvalidInputError, match="way"):
        way(name)


def test_a_limited_way_is_compared_with_slots_alone_within_the_same_limits() -> None:
    names = [one.name for one in runs([way("mps"), way("mps-30-70")])]
    assert names == [
        "whole GPU, slots alone",
        "whole GPU, AI alone",
        "mps",
        "mps-30-70, slots alone",
        "mps-30-70",
    ]


def test_dropped_slots_are_late_and_have_no_times() -> None:
    slots = [slot(0, 100, 200), slot(1, 100, 400), slot(2, 400, 900), slot(3, math.nan, math.nan)]
    (result,) = report.channel_results(slots)
    assert (result.slots, result.dropped) == (4, 1)
    assert (result.late_kernels, result.late_latency) == (2, 3)
    assert result.kernels is not None
    assert result.kernels.max_us == 400
    (nothing,) = report.channel_results(slots[3:])
    assert nothing.kernels is None
    assert nothing.late_latency == 1


def test_the_ai_is_counted_while_slots_run_only() -> None:
    ended_s = [0.5, 1.0, 1.5, 1.9, 2.0]
    tokens = [128, 128, 120, 128, 1000]
    assert report.tokens_per_s(ended_s, tokens, 1.0, 2.0) == 376
    assert report.tokens_per_s(ended_s, tokens, 2.0, 2.0) == 0
    assert report.step_ms(ended_s, 1.0, 2.0)["max"] == pytest.approx(500)
    assert report.step_ms(ended_s, 1.0, 1.2) is None


def test_ratios_rest_on_the_runs_alone() -> None:
    def row(name: str, way: str, us: float, rate: float | None) -> RunResult:
        return RunResult(name, way, report.channel_results([slot(0, us, us)]), rate)

    ai = RunResult("whole GPU, AI alone", "whole GPU", tokens_per_s=1000.0)
    rows = [
        row("whole GPU, slots alone", "whole GPU", 100, None),
        ai,
        row("mps", "mps", 150, 900.0),
        row("mps-30-70, slots alone", "mps-30-70", 200, None),
        row("mps-30-70", "mps-30-70", 220, 950.0),
    ]
    report.compare(rows)
    assert rows[2].p999_ratio == {"pdsch": pytest.approx(1.5)}
    assert rows[4].p999_ratio == {"pdsch": pytest.approx(1.1)}
    assert rows[4].ai_share == pytest.approx(0.95)
    assert rows[0].p999_ratio == {}


def test_the_series_tells_dropped_slots_by_null() -> None:
    traced = report.series(Run(WHOLE), [slot(0, 1, 2), slot(1, math.nan, math.nan)], [10.001])
    assert traced["slots"] == [[0.0, "pdsch", 1, 2], [0.5, "pdsch", None, None]]
    assert traced["steps_ended_ms"] == [1.0]


def test_slots_are_told_apart_even_if_a_dropped_one_ends_before_others() -> None:
    work = object.__new__(_Work)
    uplinks, downlinks = [4, 9], [0, 1, 2, 3, 5, 6, 7, 8]
    work.due_s = {
        "pusch": [100 + n * 5e-4 for n in (*uplinks, *(100 + u for u in uplinks))],
        "pdsch": [100 + n * 5e-4 for n in (*downlinks, *(100 + d for d in downlinks))],
    }
    work.received = [SlotOutcome(20 * n + 4, (), 1, 1, 1) for n in range(4)]
    sent = [SentSlot(20 * n + 4, UeStatus.ON_TIME, None, 1, 1, 1) for n in range(16)]
    work.sent_slots = [*sent[:9], SentSlot(20 * 10 + 4, UeStatus.DROPPED), sent[9], *sent[11:]]
    traced = work.traced()
    assert [one.index for one in traced] == list(range(10))
    assert [one.channel for one in traced] == (["pdsch"] * 4 + ["pusch"]) * 2
    assert [one.index for one in traced if math.isnan(one.latency_us)] == [2]


def test_a_whole_bench_with_simulated_sides(airan, simulated_sides, tmp_path) -> None:
    rows, series = tmp_path / "rows.json", tmp_path / "series.jsonl"
    files = ("--report", rows, "--series", series)
    ran = airan("bench", "sharing", "--slots", 100, "--way", "time-sliced", "--way", "mps", *files)
    assert ran.code == 0, ran.err
    assert "time-sliced" in ran.out
    results = json.loads(rows.read_text())["results"]
    assert [one["error"] for one in results] == [None] * 4
    assert results[2]["tokens_per_s"] > 0
    assert [json.loads(one)["name"] for one in series.read_text().split("\n") if one] == [
        "whole GPU, slots alone",
        "whole GPU, AI alone",
        "time-sliced",
        "mps",
    ]


def test_a_run_that_fails_becomes_a_row_and_the_others_go_on(airan, simulated_sides) -> None:
    ran = airan("bench", "sharing", "--slots", 100, "--cells", 13, "--way", "mps", "--json")
    assert ran.code == 1
    errors = [one["error"] for one in json.loads(ran.out)["results"]]
    fell = "the simulated GPU fell off"
    assert errors == [fell, None, fell]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--way", "nosuch"), "unknown way 'nosuch'"),
        (("--slots", "3"), "slots: must be at least 100"),
        (("--cells", "0"), "cells: must lie in"),
        (("--batch", "0"), "batch: must lie in"),
        (("--report", "/nowhere/x.json"), "/nowhere/x.json cannot be written"),
    ],
)
def test_wrong_options_are_refused_by_name(airan, arguments, named) -> None:
    ran = airan("bench", "sharing", *arguments)
    assert ran.code != 0
    assert named in ran.err


def test_without_a_gpu_it_says_what_is_missing(airan) -> None:
    try:
        require_cupy()
    except GpuUnavailableError:
        pass
    else:
        pytest.skip("there is a GPU")
    ran = airan("bench", "sharing")
    assert ran.code != 0
    assert "CuPy cannot be imported" in ran.err or "no usable NVIDIA GPU" in ran.err
