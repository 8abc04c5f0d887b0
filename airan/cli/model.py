"""`airan model`: the models the site can serve."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json
from marketplace import models

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

model_app = typer.Typer(help="Models: fetch and check.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(model_app, name="model")


@model_app.command("pull")
def pull(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Default: the configured model.")] = None,
    force: Annotated[bool, typer.Option(help="Fetch again, whatever is cached.")] = False,
    json: JsonFlag = False,
) -> None:
    """Fetch a model once and check its sha256."""
    options = cli_context.of(context)
    config = options.config()
    quiet = json or options.json
    path = models.pull(
        name or config.model.name,
        config.cache_dir,
        force=force,
    )
    if quiet:
        emit_json({"model": name or config.model.name, "path": str(path)})
    else:
        console.print(f"{name or config.model.name} is at {path}")
