"""`airan`: starts, watches and steers a site."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from airan.cli import (
    bench,
    bench_gateway,
    bench_gears,
    bench_link,
    bench_orchestrator,
    bench_replay,
    bench_sharing,
    bench_site,
    control,
    economics,
    market,
    market_books,
    market_limits,
    market_peers,
    market_people,
    model,
    model_adapter,
    simulate,
    site,
    webhook,
)
from airan.cli import context as cli_context
from airan.cli.context import EXIT_CODES, Context
from airan.cli.output import emit_json, errors
from airan.core.errors import AiranError

HELP = (
    "An edge AI-RAN site: 5G Layer 1 on hard slot deadlines, LLM inference on what is left.\n\n"
    "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
)

app = typer.Typer(
    name="airan",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
site.register(app)
control.register(app)
market.register(app)
webhook.register(app)
market_people.register(app)
market_limits.register(app)
market_peers.register(app)
market_books.register(app)
model.register(app)
model_adapter.register(model.model_app)
economics.register(app)
bench.register(app)
simulate.register(app)
bench_link.register(bench.bench_app)
bench_orchestrator.register(bench.bench_app)
bench_gateway.register(bench.bench_app)
bench_replay.register(bench.bench_app)
bench_sharing.register(bench.bench_app)
bench_gears.register(bench.bench_app)
bench_site.register(bench.bench_app)


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="The site's YAML file.", envvar="AIRAN_CONFIG")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="The site's state folder; finds a running site.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    remote: Annotated[
        str,
        typer.Option(help="HOST:PORT of another machine's control plane.", envvar="AIRAN_REMOTE"),
    ] = "",
    tls_dir: Annotated[
        Path | None,
        typer.Option(help="With --remote: where the certificates are.", envvar="AIRAN_TLS_DIR"),
    ] = None,
    identity: Annotated[
        str, typer.Option("--as", help="With --tls-dir: whose certificate.", envvar="AIRAN_AS")
    ] = "operator",
) -> None:
    """Global options, before the command."""
    context.obj = Context(config, state_dir, json, remote, tls_dir, identity)


@app.command("config")
def print_config(context: typer.Context) -> None:
    """Print every configuration key with the value it would have."""
    values = cli_context.of(context).config().model_dump(mode="json")
    if cli_context.of(context).json:
        emit_json(values)
    else:
        typer.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def main() -> int:
    """Runs the command line; our own errors become a message and an exit code."""
    try:
        app()
    except AiranError as error:
        errors.print(f"[bold red]error:[/] {_plain(error.message)}")
        if error.remedy:
            errors.print(f"[dim]remedy:[/] {_plain(error.remedy)}")
        return cli_context.exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
