"""`airan bench site`: a whole site under load, whose processes are killed one after the other."""

from __future__ import annotations

import dataclasses
import json as json_
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from airan.cli import context as cli_context
from airan.cli.bench import JsonFlag, emit_rows
from airan.cli.output import console, errors, table
from airan.core.errors import InvalidInputError

if TYPE_CHECKING:
    from airan.bench.site.run import SiteReport
    from airan.bench.site.steps import StepResult

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("site")(site)


def site(
    context: typer.Context,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="`airan up --gpu`, by the configuration given.")
    ] = False,
    streams: Annotated[int, typer.Option(help="At once.")] = 64,
    answer_tokens: Annotated[int, typer.Option(help="Of each answer.")] = 256,
    quiet: Annotated[float, typer.Option(help="Seconds before anything is killed.")] = 20.0,
    revocations: Annotated[int, typer.Option(help="Ordinary ones, in the end.")] = 3,
    kill: Annotated[
        list[str] | None, typer.Option(help="layer1, engine or mps; repeatable. Default: all.")
    ] = None,
    back: Annotated[
        float, typer.Option(help="Seconds that the site may take to come back from a kill.")
    ] = 180.0,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write everything to this file.")
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Copy the services' logs to this folder in the end.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Kill the engine, Layer 1's process and the MPS daemon of a site under load, and measure.

    The site is one of its own, by the configuration of --config. Exit code 1 if something did not
    come back, a token was lost, a stream broke, or the books do not agree.
    """
    from airan.bench.site import report as site_report
    from airan.bench.site.load import LoadOptions
    from airan.bench.site.run import SiteOptions, measure
    from airan.bench.site.victims import NAMES

    load = LoadOptions(n_streams=streams, answer_tokens=answer_tokens)
    kills = tuple(NAMES if kill is None else kill)
    options = SiteOptions(gpu, load, kills, quiet, revocations, back_s=back, logs=logs)
    config = cli_context.of(context).config()

    def keep(part: SiteReport) -> None:
        if report_file is not None:
            body = dataclasses.asdict(part)
            _write(report_file, json_.dumps(body, indent=1, default=str) + "\n")

    if report_file is not None:
        _write(report_file, "")
    with errors.status("starting ...") as status:

        def say(text: str) -> None:
            status.update(escape(text))
            if not errors.is_terminal:
                errors.print(f"{time.monotonic() - begun_s:6.1f} s  {escape(text)}")

        begun_s = time.monotonic()
        result = measure(config, options, say, keep)
    keep(result)
    emit_rows(context, "A site under load", site_report.rows(result), json)
    if not (json or cli_context.of(context).json):
        _show_steps(result)
        _show_events(result)
    problems = [result.error] if result.error else []
    problems += result.account.problems if result.account is not None else ()
    for problem in problems[:_SHOWN]:
        errors.print(f"[red]{escape(problem)}[/]")
    if not result.is_ok:
        raise typer.Exit(1)


def _show_steps(result: SiteReport) -> None:
    measures: tuple[tuple[str, Callable[[StepResult], object]], ...] = (
        ("all works again", lambda one: "yes" if one.is_back else "no"),
        ("first slot in time, s", lambda one: one.slots.first_in_time_s),
        ("longest without, s", lambda one: one.slots.longest_s),
        ("no slot lost from, s", lambda one: one.slots.steady_s),
        ("slots late", lambda one: one.slots.late),
        ("slots dropped", lambda one: one.slots.dropped),
        ("slots missing", lambda one: one.slots.missing),
        ("tokens again after, s", lambda one: one.engine_back_s),
        ("streams open", lambda one: one.streams_open),
        ("streams broken", lambda one: one.streams_broken),
        ("tokens lost", lambda one: one.tokens_lost),
        ("requests refused", lambda one: one.refused),
    )
    columns = ("what", *(one.name for one in result.steps))
    cells = [(name, *(of(one) for one in result.steps)) for name, of in measures]
    table("What was done to it", columns, cells)


def _show_events(result: SiteReport) -> None:
    """Those of single requests are only counted."""
    for step in result.steps:
        console.print(f"[bold]{escape(step.name)}[/], as the dashboard told it:")
        others = [one for one in step.events if not one["kind"].startswith("request.")]
        for one in others[:_SHOWN]:
            text = f"{one['after_s']:8.2f} s  {one['kind']:20}  {one['message']}"
            console.print(escape(text))
        requests = Counter(one["kind"] for one in step.events if one not in others)
        if requests:
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(requests.items()))
            console.print(f"            {counts}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError("report", f"{path} cannot be written: {error}") from error
