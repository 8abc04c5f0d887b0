"""`airan up`, `down`, `demo`, `status`, `events`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json
from airan.core.errors import ConfigError
from airan.demo.main import DemoOptions, run_demo
from airan.site import launch
from airan.site.gpu_host import on_gpu
from airan.site.reading import read_events, read_snapshot
from airan.site.snapshot import format_time_of_day
from airan.site.warden import stop_running

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command()(up)
    app.command()(down)
    app.command()(demo)
    app.command()(status)
    app.command()(events)


def up(
    context: typer.Context,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="On this host's NVIDIA GPU: Layer 1 and vLLM share it.")
    ] = False,
) -> None:
    """Run the site until Ctrl-C or `airan down`."""
    config = cli_context.of(context).config()
    launch.run_site(on_gpu(config) if gpu else config, console.print)


def down(context: typer.Context) -> None:
    """Stop a running site; returns when no process of it is left."""
    runtime = cli_context.of(context).site()
    stop_running(runtime)
    console.print(f"site {runtime.config.name} has stopped")


def demo(
    context: typer.Context,
    duration: Annotated[
        float, typer.Option(help="Seconds of real time for the 24 hours.", min=30.0, max=86400.0)
    ] = 180.0,
    ran_trace: Annotated[
        Path | None, typer.Option(help="RAN load: CSV with columns hour,load.")
    ] = None,
    llm_trace: Annotated[
        Path | None,
        typer.Option(help="Requests: CSV with TIMESTAMP,ContextTokens,GeneratedTokens."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="LLM requests over the day.", min=1, max=100_000)
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    plot: Annotated[Path, typer.Option(help="Write the plot to this PNG.")] = Path(
        "demo-report.png"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the generated load.")] = 1,
) -> None:
    """Replay 24 hours on a site of its own, print a report and end."""
    for path in (ran_trace, llm_trace):
        if path is not None and not path.is_file():
            raise ConfigError(f"trace {path} is not a file", remedy="give the path of a CSV file")
    options = DemoOptions(
        duration_s=duration,
        ran_trace=ran_trace.absolute() if ran_trace else None,
        llm_trace=llm_trace,
        n_requests=requests,
        json_path=json,
        plot_path=plot,
        seed=seed,
    )
    raise typer.Exit(run_demo(cli_context.of(context).config(), options))


def status(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the running site at one glance."""
    options = cli_context.of(context)
    snapshot = cli_context.run(read_snapshot(options.site()))
    if json or options.json:
        emit_json(snapshot.to_dict())
    else:
        from airan.demo.view import render_status

        console.print(render_status(snapshot))


def events(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="At most this many, the newest.", min=1)] = 30,
    json: JsonFlag = False,
) -> None:
    """List what happened on the running site."""
    options = cli_context.of(context)
    found = cli_context.run(read_events(options.site()))[-limit:]
    if json or options.json:
        emit_json([event.to_dict() for event in found])
        return
    for event in found:
        clock = format_time_of_day(event.site_time_s)
        console.print(f"{clock}  {event.severity:7}  {event.kind:20}  {event.message}")
