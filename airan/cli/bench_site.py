"""`airan bench site`: a whole site under load, whose processes are killed one after the other."""

from __future__ import annotations

import dataclasses
import json as json_
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

    load = LoadOptions(n_streams=streams, answer_tokens=answer_tokens)
    options = SiteOptions(
        gpu, load, quiet_s=quiet, n_revocations=revocations, back_s=back, logs=logs
    )
    config = cli_context.of(context).config()
    if report_file is not None:
        _write(report_file, "")
    with errors.status("starting ...") as status:
        result = measure(config, options, lambda text: status.update(escape(text)))
    if report_file is not None:
        body = dataclasses.asdict(result)
        _write(report_file, json_.dumps(body, indent=1, default=str) + "\n")
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
    columns = ("killed", "back", "first slot in time, s", "steady, s", "late", "dropped", "missing")
    more = ("tokens again, s", "streams", "broken", "tokens lost", "refused")
    cells = [
        (
            *(one.name, "yes" if one.is_back else "no", one.slots.first_in_time_s),
            *(one.slots.steady_s, one.slots.late, one.slots.dropped, one.slots.missing),
            *(one.engine_back_s, one.streams_open, one.streams_broken, one.tokens_lost),
            one.refused,
        )
        for one in result.steps
    ]
    table("What was done to it", (*columns, *more), cells)


def _show_events(result: SiteReport) -> None:
    for step in result.steps:
        console.print(f"[bold]{escape(step.name)}[/], as the dashboard told it:")
        for one in step.events[:_SHOWN]:
            text = f"{one['after_s']:8.2f} s  {one['kind']:20}  {one['message']}"
            console.print(escape(text))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError("report", f"{path} cannot be written: {error}") from error
