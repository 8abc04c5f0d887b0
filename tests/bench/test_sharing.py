"""`airan bench sharing`: its pure parts, and its processes with simulated sides."""

from __future__ import annotations

import json
import math

import pytest

from airan.bench.sharing import report
from airan.bench.sharing.report import RunResult
from airan.bench.sharing.ways import UNLIMITED, Run, Setup, Way, by_setup, runs, way
from airan.core.errors import InvalidInputError
from orchestrator.sm_board import Gear
from phy.gpu.bench_slots import TracedSlot, _Work
from phy.gpu.module import GpuUnavailableError, require_cupy
from phy.gpu.outcome import SentSlot, SlotOutcome, UeStatus


def slot(index: int, kernels_us: float, latency_us: float, channel: str = "pdsch") -> TracedSlot:
    return TracedSlot(index, channel, 10 + index * 5e-4, kernels_us, kernels_us, latency_us)


def test_ways_are_read_from_their_names() -> None:
    assert way("time-sliced").setup == Setup()
    assert way("mps").setup == Setup(is_mps=True)
    assert way("mps-30-70").setup == Setup(True, 30, 70)
    assert way("mps-first-50-90").setup == Setup(True, 50, 90, slots_first=True)
    assert way("green-64-40") == Way("green-64-40", Setup(is_mps=True), Gear(64, 40))
    assert [way(name).slots_limit for name in ("mps", "mps-30-70", "green-64-40")] == [
        *("", "30%", "64 SMs")
    ]


@pytest.mark.parametrize(
    "name",
    ["mig", "mps-0-70", "mps-30-101", "green-0-8", "green-8-0", "green-60-8", "green-64", "mps-30"],
)
def test_unknown_ways_are_refused(name) -> None:
    with pytest.raises(InvalidInputError, match="way"):
        way(name)


def test_each_side_of_a_way_runs_alone_within_its_limits_first() -> None:
    ways = [way(name) for name in ("mps", "green-96-36", "green-96-20")]
    assert [one.name for one in runs(UNLIMITED, ways)] == [
        "whole GPU, slots alone",
        "whole GPU, AI alone",
        "mps",
        "green-96-36, slots alone",
        "green-96-36, AI alone",
        "green-96-36",
        "green-96-20, AI alone",
        "green-96-20",
    ]
    limited = way("mps-30-70")
    assert [one.name for one in runs(limited.setup, [limited])] == [
        "mps-30-70, slots alone",
        "mps-30-70, AI alone",
        "mps-30-70",
    ]
    assert [one.name for one in runs(Setup(), [way("time-sliced")])] == ["time-sliced"]


def test_the_whole_gpu_is_measured_where_nothing_is_limited() -> None:
    (first, none), (second, _) = by_setup([way("mps-30-70")]).items()
    assert (first, none, second) == (UNLIMITED, [], Setup(True, 30, 70))
    assert [one.name for one in runs(first, none)] == [
        *("whole GPU, slots alone", "whole GPU, AI alone")
    ]


def test_ways_whose_processes_start_alike_share_them() -> None:
    names = ("time-sliced", "green-64-68", "mps-30-70", "mps")
    grouped = by_setup([way(name) for name in names])
    assert [[one.name for one in ways] for ways in grouped.values()] == [
        ["mps", "green-64-68"],
        ["time-sliced"],
        ["mps-30-70"],
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
        limit = "30%" if way == "mps-30-70" else ""
        return RunResult(name, way, limit, report.channel_results([slot(0, us, us)]), rate)

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
    traced = report.series(
        Run(Way("whole GPU")), [slot(0, 1, 2), slot(1, math.nan, math.nan)], [10.001]
    )
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
    traced = work.traced({"pusch": 0, "pdsch": 0})
    assert [one.index for one in traced] == list(range(10))
    assert [one.channel for one in traced] == (["pdsch"] * 4 + ["pusch"]) * 2
    assert [one.index for one in traced if math.isnan(one.latency_us)] == [2]


def test_a_whole_bench_with_simulated_sides(airan, simulated_sides, tmp_path) -> None:
    rows, series = tmp_path / "rows.json", tmp_path / "series.jsonl"
    files = ("--report", rows, "--series", series, "--plot", tmp_path / "plots")
    ways = ("--way", "time-sliced", "--way", "mps", "--way", "green-64-68", "--way", "green-96-40")
    ran = airan("bench", "sharing", "--slots", 200, *ways, *files)
    assert ran.code == 1
    assert "green-96-40: the GPU has 132 SMs" in ran.err
    assert "time-sliced" in ran.out
    results = {one["name"]: one for one in json.loads(rows.read_text())["runs"][0]["results"]}
    assert [one["error"] for one in results.values() if "96" not in one["name"]] == [None] * 7
    half = results["green-64-68"]
    # The fewer SMs the simulated slots have, the longer they take, beside the AI as alone.
    assert half["channels"][0]["kernels"]["p50_us"] == 100 * 132 / 64
    assert half["p999_ratio"] == {"pdsch": 1.0, "pusch": 1.0}
    assert results["green-64-68, AI alone"]["ai_share"] == pytest.approx(0.5, abs=0.2)
    assert (tmp_path / "plots" / "20-peak-green-64-68.png").stat().st_size > 10_000
    assert [json.loads(one)["name"] for one in series.read_text().split("\n") if one] == [
        *("whole GPU, slots alone", "whole GPU, AI alone", "mps"),
        *("green-64-68, slots alone", "green-64-68, AI alone", "green-64-68"),
        "time-sliced",
    ]


def test_sides_that_do_not_start_become_rows_and_the_others_go_on(
    airan, simulated_sides, tmp_path
) -> None:
    ways = ("--way", "mps", "--way", "time-sliced")
    path = tmp_path / "rows.json"
    ran = airan("bench", "sharing", "--slots", 100, "--cells", 13, *ways, "--report", path)
    assert ran.code == 1
    assert "the simulated GPU fell off" in ran.err
    errors = {
        one["name"]: one["error"] for one in json.loads(path.read_text())["runs"][0]["results"]
    }
    assert set(errors.values()) == {"the simulated GPU fell off"}
    assert list(errors)[-2:] == ["mps", "time-sliced"]


def test_json_has_a_row_for_each_figure_beside_the_same_side_alone(airan, simulated_sides) -> None:
    ran = airan("bench", "sharing", "--slots", 200, "--way", "green-64-68", "--json")
    rows = {one["name"]: one for one in json.loads(ran.out)}
    slots = rows["green-64-68_(20_peak_cells)_pdsch_p999"]
    us = 100 * 132 / 64
    assert (slots["value"], slots["peer"], slots["ratio"]) == (us, "the same slots alone", 1)
    assert rows["green-64-68_(20_peak_cells)_pdsch_late"]["value"] == 0
    tokens = rows["green-64-68_(20_peak_cells)_tokens"]
    assert tokens["ratio"] == pytest.approx(0.5, abs=0.2)
    assert "simulated" in tokens["hardware"]


def test_the_whole_proof_with_simulated_sides(airan, simulated_sides, tmp_path) -> None:
    files = ("--report", tmp_path / "proof.json", "--plot", tmp_path / "plots")
    ran = airan("bench", "sharing", "--gpu", "--slots", 100, "--day", 10_000, "--pauses", 3, *files)
    assert ran.code == 0, ran.err
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert [one["options"]["n_cells"] for one in proof["runs"]] == [20, 4]
    assert all("vLLM" in one["ai"] for one in (*proof["runs"], proof["day"]))
    assert proof["day"]["pauses"]["n"] == 3
    assert "revocation until it has stopped" in ran.out
    drawn = {one.name for one in (tmp_path / "plots").iterdir()}
    assert {"day.png", "20-peak-green-96-32.png", "4-average-mps.png"} <= drawn


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--way", "nosuch"), "unknown way 'nosuch'"),
        (("--slots", "3"), "slots: must be at least 100"),
        (("--cells", "0"), "cells: must lie in"),
        (("--batch", "0"), "batch: must lie in"),
        (("--day", "0.5"), "day: its speed must lie in"),
        (("--plot", "/dev/null/x"), "/dev/null/x cannot be made"),
        (("--engine", "nosuch"), "engine: must be stand-in or vllm"),
        (("--step-tokens", "512"), "step-tokens: are vLLM's"),
        (("--engine", "vllm", "--step-tokens", "190"), "step-tokens: must be at least one and a"),
        (("--engine", "vllm", "--day", "9", "--step-tokens", "8"), "step-tokens: must be at least"),
        (("--gpu", "--way", "mps"), "way: does not go with --gpu"),
        (("--gpu", "--cells", "3"), "gpu: has cells"),
        (("--day", "9", "--average"), "average: does not go with --day"),
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
