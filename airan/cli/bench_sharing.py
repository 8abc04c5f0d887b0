"""`airan bench sharing`: Layer 1's slots beside a language model on one GPU."""

from __future__ import annotations

import dataclasses
import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from airan.cli import context as cli_context
from airan.cli.bench import JsonFlag
from airan.cli.bench_gears import LimitsOption, slot_limits_of
from airan.cli.bench_sharing_tables import print_day, print_ways
from airan.cli.output import emit_json, errors
from airan.core.errors import InvalidInputError

if TYPE_CHECKING:
    from airan.bench.sharing.proof import Proof, ProofOptions


_CELLS, _ENGINE = 20, "stand-in"


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("sharing")(sharing)


def sharing(
    context: typer.Context,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="The whole proof: 20 peak cells and 4 average ones beside vLLM in every way, a "
            "day, 1,000 revocations. Takes --slots, --day and --pauses; about half an hour.",
        ),
    ] = False,
    way: Annotated[
        list[str] | None,
        typer.Option(
            help="time-sliced, mps, mps-30-70 (percent: slots, AI), green-96-36 (SMs); repeatable."
        ),
    ] = None,
    slots: Annotated[int, typer.Option(help="Slots of each run.")] = 10_000,
    cells: Annotated[int, typer.Option(help="Cells.")] = _CELLS,
    average: Annotated[bool, typer.Option("--average", help="Cells at average load.")] = False,
    batch: Annotated[int, typer.Option(help="Sequences of the AI.")] = 128,
    engine: Annotated[
        str, typer.Option(help="stand-in, or vllm where it is installed beside airan.")
    ] = _ENGINE,
    step_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one step of vLLM; its own without.")
    ] = None,
    day: Annotated[
        float | None,
        typer.Option(help="Play a day at so many times its speed instead; --gpu: 100."),
    ] = None,
    pauses: Annotated[int, typer.Option(help="Revocations after the day.")] = 1000,
    limits: LimitsOption = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="Write everything to this file after each run."),
    ] = None,
    series_file: Annotated[
        Path | None, typer.Option("--series", help="Write every slot, one JSON line a run.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw every run that has both sides, into this folder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure what each way to share an NVIDIA GPU costs Layer 1's slots and an AI load.

    The AI load is decode steps of an 8B model's shape, or vLLM with such a model's random weights.
    Exit code 1 if a run failed.
    """
    from airan.bench.sharing.day import DayOptions
    from airan.bench.sharing.proof import ProofOptions, rows
    from airan.bench.sharing.run import SharingOptions
    from airan.bench.sharing.ways import DEFAULT_WAYS

    _check_goes_together(gpu=gpu, day=day, ways=way, cells=cells, average=average, engine=engine)
    if gpu:
        options = ProofOptions.whole(
            slots, 100.0 if day is None else day, pauses, slot_limits_of(limits)
        )
    elif day is not None:
        played = DayOptions(
            cells,
            day,
            n_pauses=pauses,
            batch=batch,
            engine=engine,
            step_tokens=step_tokens,
            slot_limits=slot_limits_of(limits),
        )
        options = ProofOptions((), played)
    else:
        names = tuple(way or DEFAULT_WAYS)
        ways = SharingOptions(names, slots, cells, average, batch, engine, step_tokens)
        options = ProofOptions((ways,))
    proof = _measure(options, _Files(report_file, series_file, plot))
    if json or cli_context.of(context).json:
        emit_json(rows(proof))
    else:
        for report in proof.runs:
            print_ways(dataclasses.asdict(report))
        if proof.day is not None:
            print_day(proof.day)
    for name, error in proof.errors:
        errors.print(f"[red]{escape(name)}: {escape(error)}[/]")
    if proof.errors:
        raise typer.Exit(1)


def _check_goes_together(
    *,
    gpu: bool,
    day: float | None,
    ways: list[str] | None,
    cells: int,
    average: bool,
    engine: str,
) -> None:
    """Refuses options that would be passed over."""
    if ways and (gpu or day is not None):
        option = "--gpu" if gpu else "--day"
        raise InvalidInputError("way", f"does not go with {option}", remedy=f"leave {option} out")
    if gpu and (cells != _CELLS or average or engine != _ENGINE):
        raise InvalidInputError(
            "gpu", "has cells, loads and engine of its own", remedy="leave those options out"
        )
    if average and day is not None:
        raise InvalidInputError("average", "does not go with --day, which has its own loads")


@dataclasses.dataclass(frozen=True)
class _Files:
    """Where what is measured goes besides the terminal."""

    report: Path | None
    series: Path | None
    plots: Path | None
    _has_begun: list[bool] = dataclasses.field(default_factory=list)

    def begin(self) -> None:
        """It is too late to find out after minutes of measuring."""
        for path in (self.report, self.series):
            if path is not None:
                _write(path, "", "a")
        if self.plots is not None:
            try:
                self.plots.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidInputError("plot", f"{self.plots} cannot be made: {error}") from error

    def take(self, proof: Proof, series: dict[str, Any]) -> None:
        """After each run."""
        if self.series is not None and series and not self._has_begun:
            self._has_begun.append(True)
            _write(self.series, "")
        if self.report is not None:
            _write(self.report, json_.dumps(dataclasses.asdict(proof), indent=1) + "\n")
        if not series:
            return
        if self.series is not None:
            _write(self.series, json_.dumps(series, separators=(",", ":")) + "\n", "a")
        if self.plots is not None:
            try:
                _draw(proof, series, self.plots)
            except OSError as error:
                errors.print(f"[red]a picture could not be written: {escape(str(error))}[/]")


def _measure(options: ProofOptions, files: _Files) -> Proof:
    from airan.bench.sharing.proof import measure_all

    files.begin()
    with errors.status("measuring ...") as status:
        return measure_all(
            options, files.take, lambda name: status.update(f"measuring {escape(name)}")
        )


def _draw(proof: Proof, series: dict[str, Any], folder: Path) -> None:
    from airan.bench.sharing import plots

    if proof.day is not None and series["name"] == "day":
        day = proof.day
        title = (
            f"{day.device['name']}: a day of {day.options.n_cells} cells at"
            f" {day.options.speed:g} times its speed; AI: {day.ai}"
        )
        plots.save_day(series, day.options.gears, day.options.hours, title, folder / "day.png")
    elif series.get("slots") and series.get("steps_ended_ms"):
        last = proof.runs[-1]
        load = f"{last.options.n_cells}-{'average' if last.options.is_average else 'peak'}"
        title = f"{last.device['name']}, {series['name']}, {load} cells; AI: {last.ai}"
        plots.save_run(series, title, folder / f"{load}-{series['name']}.png")


def _write(path: Path, text: str, mode: str = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidInputError("report", f"{path} cannot be written: {error}") from error
