"""`airan bench phy --gpu` where there is no GPU: it says so, and refuses what it cannot do."""

from __future__ import annotations

import json

import pytest

from airan.bench.gpu import GpuDevice, GpuReport
from airan.bench.gpu_rows import rows
from airan.cli.bench_gpu import _print
from phy.gpu.module import GpuUnavailableError, require_cupy


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--section", "nosuch"), "section: must be one of coding, stages, bler, slots"),
        (("--slots", "3"), "slots: must be at least 100"),
        (("--cells", "0"), "cells: must lie in"),
        (("--section", "sionna", "--sionna"), "Sionna is not installed"),
        (("--section", "bler", "--report", "/nowhere/x.json"), "/nowhere/x.json cannot be written"),
    ],
)
def test_wrong_options_are_refused_by_name(airan, without_sionna, arguments, named) -> None:
    ran = airan("bench", "phy", "--gpu", *arguments)
    assert ran.code != 0
    assert named in ran.err


def test_without_a_gpu_it_says_what_is_missing(airan, without_sionna) -> None:
    try:
        require_cupy()
    except GpuUnavailableError:
        pass
    else:
        pytest.skip("there is a GPU")
    ran = airan("bench", "phy", "--gpu", "--section", "coding")
    assert ran.code != 0
    assert "CuPy cannot be imported" in ran.err or "no usable NVIDIA GPU" in ran.err


def test_a_report_is_printed_as_tables_and_rows(capsys) -> None:
    times = {"p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0}
    slot = {
        **{"channel": "pusch", "is_beside_other": True, "cells": 20, "n_prb": 273, "layers": 4},
        **{"n_sms": 132, "slots": 2000, "dropped": 3, "budget_us": 1250.0, "late_share": 0.25},
        **{"kernels": times, "with_copies": times, "latency": times},
    }
    error = {"median": 0.04, "p95": 0.1, "largest": 0.2}
    report = GpuReport(
        GpuDevice("NVIDIA Test", "1.2", 1980, 1980, 2619, 700.0),
        "2026-01-01T00:00:00+00:00",
        coding=[{"name": "decode", "microseconds": 5.0, "gbps": 60.0, "note": "fine"}],
        stages=[{"channel": "pusch", "cells": 20, "stage": "decode", "us": 68.8}],
        slots=[slot],
        cost_model=json.dumps({"channels": {"pusch": {"n_samples": 84, "error": error}}}),
    )
    assert [(r.name, r.value, r.unit, r.ratio) for r in rows(report)][:3] == [
        ("decode", 60.0, "Gb/s", None),
        ("PUSCH decode, 20 cells", 68.8, "us", None),
        (
            "PUSCH 20 cells, 273 PRB x 4 layers, 132 SMs, both directions, kernels p50",
            1.0,
            "us",
            1250,
        ),
    ]
    assert {row.hardware.partition(",")[0] for row in rows(report)} == {"NVIDIA Test"}
    _print(report)
    printed = capsys.readouterr().out
    for text in ("NVIDIA Test, driver 1.2", "decode", "68.8", "both", "median 4.0%"):
        assert text in printed.replace("68.80", "68.8")
