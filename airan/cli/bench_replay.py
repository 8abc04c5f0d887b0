"""`airan bench replay`: the Azure trace against the marketplace, whose lease comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from airan.cli import context as cli_context
from airan.cli.bench import JsonFlag, SeedOption, emit_rows
from airan.cli.output import errors

_SHOWN_PROBLEMS = 20


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("replay")(replay)


def replay(
    context: typer.Context,
    duration: Annotated[float, typer.Option(help="Seconds in which requests are sent.")] = 60.0,
    speed_up: Annotated[float, typer.Option(help="Times the trace's own pace.")] = 10.0,
    every: Annotated[int, typer.Option(help="Sends one request in so many.")] = 40,
    token_scale: Annotated[
        float, typer.Option(help="Times the trace's tokens, of prompts and answers.")
    ] = 0.0625,
    start: Annotated[float, typer.Option(help="First second of the trace.")] = 0.0,
    revoke_every: Annotated[
        float, typer.Option(help="Seconds between revocations of the lease; 0: none.")
    ] = 10.0,
    held: Annotated[
        float, typer.Option(help="Seconds that the radio keeps the GPU each time.")
    ] = 1.0,
    notice_ms: Annotated[int, typer.Option(help="The lease's notice.")] = 1000,
    threads: Annotated[int, typer.Option(min=1, help="Of llama.cpp.")] = 1,
    trace: Annotated[
        Path | None, typer.Option(help="Another trace of the same form; .gz is unpacked.")
    ] = None,
    seed: SeedOption = 1,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write each request, as its client saw it.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Replay the Azure LLM trace while the engine's lease is revoked again and again.

    Orchestrator (simulated GPU), engine and gateway are real; the model is the site's. Exit code
    1 if a token was lost, a request failed, a bill is wrong, or the books do not agree.
    """
    from airan.bench.replay import report
    from airan.bench.replay.run import ReplayOptions, measure
    from airan.bench.replay.trace import SHIPPED, TraceOptions
    from airan.bench.replay.where import describe
    from marketplace import models

    chosen = TraceOptions(
        trace or SHIPPED, start, duration, speed_up, every, token_scale=token_scale, seed=seed
    )
    config = cli_context.of(context).config()
    with errors.status("fetching the model ...") as status:
        path = models.pull(config.model.name, config.cache_dir)
        options = ReplayOptions(
            config.model.name, path, chosen, revoke_every, held, notice_ms, threads
        )
        result = measure(options, lambda text: status.update(escape(text)))
    if report_file is not None:
        report.write(result, report_file)
    title = "The trace replayed against the marketplace, on this machine"
    emit_rows(context, title, report.rows(result, describe(options)), json)
    for problem in result.problems[:_SHOWN_PROBLEMS]:
        errors.print(f"[red]{escape(problem)}[/]")
    if not result.ok:
        raise typer.Exit(1)
