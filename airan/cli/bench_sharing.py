"""`airan bench sharing`: Layer 1's slots beside a language model on one GPU."""

from __future__ import annotations

import dataclasses
import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from airan.cli import context as cli_context
from airan.cli.bench import JsonFlag
from airan.cli.output import console, emit_json, errors, table
from airan.core.errors import InvalidInputError

_TITLES = {
    "kernels": "Slots in DDDSU at 0.5 ms pace, kernels on the GPU, us",
    "latency": "The same slots from when they were due to their results on the host, us",
}


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("sharing")(sharing)


def sharing(
    context: typer.Context,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="time-sliced, mps, mps-30-70 (percent: slots, AI), green-96-36 (SMs); repeatable."
        ),
    ] = None,
    slots: Annotated[int, typer.Option(help="Slots of each run.")] = 10_000,
    cells: Annotated[int, typer.Option(help="Cells.")] = 20,
    average: Annotated[bool, typer.Option("--average", help="Cells at average load.")] = False,
    batch: Annotated[int, typer.Option(help="Sequences of the AI.")] = 128,
    engine: Annotated[
        str, typer.Option(help="stand-in, or vllm where it is installed beside airan.")
    ] = "stand-in",
    step_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one step of vLLM; its own without.")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the rows to this file after each run.")
    ] = None,
    series_file: Annotated[
        Path | None, typer.Option("--series", help="Write every slot, one JSON line a run.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure what each way to share an NVIDIA GPU costs Layer 1's slots and an AI load.

    The AI load is decode steps of an 8B model's shape, or vLLM with such a model's random weights.
    Exit code 1 if a run failed.
    """
    from airan.bench.sharing.run import SharingOptions, SharingReport, measure
    from airan.bench.sharing.ways import DEFAULT_WAYS

    options = SharingOptions(
        tuple(way or DEFAULT_WAYS), slots, cells, average, batch, engine, step_tokens
    )
    for path in (report_file, series_file):
        if path is not None:
            _write(path, "")  # it is too late to find out after minutes of measuring

    def on_run(so_far: SharingReport, traced: dict[str, Any] | None) -> None:
        if report_file is not None:
            _write(report_file, json_.dumps(dataclasses.asdict(so_far), indent=1) + "\n")
        if series_file is not None and traced is not None:
            _write(series_file, json_.dumps(traced, separators=(",", ":")) + "\n", "a")

    with errors.status("measuring ...") as status:
        report = measure(options, on_run, lambda name: status.update(f"measuring {escape(name)}"))
    if json or cli_context.of(context).json:
        emit_json(report)
    else:
        _print(dataclasses.asdict(report))
    if any(one.error for one in report.results):
        raise typer.Exit(1)


def _write(path: Path, text: str, mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidInputError("report", f"{path} cannot be written: {error}") from error


def _print(report: dict[str, Any]) -> None:
    at = report["device"]
    console.print(
        f"{escape(at['name'])}, driver {at['driver']}, {at['sm_mhz']} MHz; {report['started']}; "
        f"AI: {report['ai']}"
    )
    results = report["results"]
    for what, title in _TITLES.items():
        lines = [_line(one, channel, what) for one in results for channel in one["channels"]]
        columns = ("run", "channel", "p50", "p99", "p99.9", "max", "late", "dropped", "of")
        table(title, columns, lines)
    beside = [(one["name"], *_beside(one)) for one in results]
    beside_columns = ("run", "PUSCH", "PDSCH", "tokens/s", "of alone")
    table(
        "p99.9 of kernels, times the same slots alone on the same SMs; the AI",
        beside_columns,
        beside,
    )
    for one in results:
        if one["error"]:
            errors.print(f"[red]{escape(one['name'])}: {escape(one['error'])}[/]")


def _line(one: dict[str, Any], channel: dict[str, Any], what: str) -> tuple[object, ...]:
    found = channel[what] or {}
    times = [found.get(key) for key in ("p50_us", "p99_us", "p999_us", "max_us")]
    ends = (channel[f"late_{what}"], channel["dropped"], channel["slots"])
    return (one["name"], channel["channel"], *times, *ends)


def _beside(one: dict[str, Any]) -> tuple[object, ...]:
    if one["error"]:
        return ("failed", None, None, None)
    ratios = [one["p999_ratio"].get(channel) for channel in ("pusch", "pdsch")]
    return (*ratios, one["tokens_per_s"], one["ai_share"])
