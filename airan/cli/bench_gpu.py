"""`airan bench phy --gpu`: what it measured, as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import typer

from airan.bench import gpu
from airan.bench.gpu_rows import rows
from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, errors, table
from airan.core.errors import InvalidInputError


@dataclass(frozen=True)
class Files:
    """Where results are written besides; None: nowhere.

    Attributes:
        report: everything measured, JSON.
        cost_model: the cost model alone.
    """

    report: Path | None = None
    cost_model: Path | None = None


def run(
    context: typer.Context,
    options: gpu.GpuOptions,
    files: Files,
    *,
    as_json: bool,
) -> None:
    """Measures and prints.

    Raises:
        AiranError: there is no GPU, or a result was wrong.
    """
    for path in (files.report, files.cost_model):
        if path is not None:
            _write(path, "")  # it is too late to find out after minutes of measuring
    with errors.status("measuring ...") as status:
        report = gpu.measure(options, lambda done: status.update(f"measuring ... {done} is done"))
    if files.cost_model is not None and report.cost_model is not None:
        _write(files.cost_model, report.cost_model)
    if files.report is not None:
        _write(files.report, json.dumps(dataclasses.asdict(report), indent=1))
    if as_json or cli_context.of(context).json:
        emit_json(rows(report))
    else:
        _print(report)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInputError("report", f"{path} cannot be written: {error}") from error


def _print(report: gpu.GpuReport) -> None:
    at = report.device
    console.print(
        f"{at.name}, driver {at.driver}, {at.sm_mhz} of {at.max_sm_mhz} MHz, memory "
        f"{at.memory_mhz} MHz, {at.power_limit_w:.0f} W; {report.started}"
    )
    if report.coding:
        coding = [(r["name"], r["microseconds"], r["gbps"], r["note"]) for r in report.coding]
        table("Coding on the GPU", ("what", "us", "Gb/s", ""), coding)
    if report.stages:
        columns = tuple(report.stages[0])
        table("Stages, each alone", columns, [tuple(row.values()) for row in report.stages])
    if report.bler:
        columns = tuple(report.bler[0])
        table("BLER, simulated radio", columns, [tuple(row.values()) for row in report.bler])
    if report.slots:
        _print_slots(report)
    if report.ofdm:
        columns = tuple(report.ofdm[0])
        table("OFDM, us", columns, [tuple(row.values()) for row in report.ofdm])
    if report.peer:
        columns = ("what", "airan", "peer", "peer's", "ratio")
        cells = [
            (r["name"], r["value"], r["peer"], r["peer_value"], r["ratio"]) for r in report.peer
        ]
        table("Beside Sionna on the same GPU", columns, cells)
    if report.cost_model:
        for name, channel in json.loads(report.cost_model)["channels"].items():
            error = channel["error"]
            console.print(
                f"cost model, {name}: {channel['n_samples']} slots; held-out error: median "
                f"{error['median']:.1%}, 95% under {error['p95']:.1%}, largest "
                f"{error['largest']:.1%}"
            )


def _print_slots(report: gpu.GpuReport) -> None:
    for key, what in (
        ("kernels", "kernels on the GPU"),
        ("with_copies", "with samples in and results out"),
        ("latency", "arrival to results on the host"),
    ):
        lines = []
        for row in report.slots:
            times = row[key]
            share = row["late_share"] if key == "latency" else None
            lines.append(
                (
                    *(row["channel"], "both" if row["is_beside_other"] else "alone"),
                    *(row["cells"], f"{row['n_prb']} PRB x {row['layers']}"),
                    *(row["n_sms"], row["slots"]),
                    *(times[name] for name in ("p50_us", "p99_us", "p999_us", "max_us")),
                    *(row["budget_us"], share),
                )
            )
        columns = (
            *("channel", "", "cells", "load", "SMs", "slots"),
            *("p50", "p99", "p99.9", "max", "budget", "late"),
        )
        table(f"Slots, us, {what}", columns, lines)
