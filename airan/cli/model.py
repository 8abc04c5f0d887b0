"""`airan model`: the models the site can serve."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, errors, table
from airan.core.config import SiteConfig
from airan.site.catalogue import file_sources, model_cache
from marketplace import models
from marketplace.catalogue.records import Caching

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MB = 1e6

model_app = typer.Typer(help="Models: list, fetch and check.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(model_app, name="model")


@model_app.command("list")
def list_models(context: typer.Context, json: JsonFlag = False) -> None:
    """List the configured models and how far their files are."""
    options = cli_context.of(context)
    rows = _rows(options.config())
    if json or options.json:
        emit_json(rows)
        return
    shown = [(row["name"], row["engine"], row["state"], _bytes(row)) for row in rows]
    table("Models", ("name", "engine", "file", "MB"), shown)
    for row in rows:
        if row["state"] == "failed":
            console.print(f"{row['name']}: {row['reason']} ({row['remedy']})", markup=False)


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
    wanted = name or config.model.name
    source = next((one for one in file_sources(config) if one.name == wanted), None)
    if source is None:
        path = models.pull(wanted, config.cache_dir, force=force)
    else:
        path = model_cache(config).fetch(
            source, force=force, progress=None if quiet else _Progress()
        )
    if quiet:
        emit_json({"model": wanted, "path": str(path)})
    else:
        console.print(f"{wanted} is at {path}")


class _Progress:
    """Says every tenth of the file, on the error stream."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, caching: Caching) -> None:
        if caching.state != "in_progress":
            return
        text = f"{caching.done_bytes / _MB:.0f} MB"
        if caching.size_bytes:
            text = f"{10 * (10 * caching.done_bytes // caching.size_bytes)}%"
            text += f" of {caching.size_bytes / _MB:.0f} MB"
        if text != self._said:
            self._said = text
            errors.print(text)


def _rows(config: SiteConfig) -> list[dict[str, Any]]:
    vllm = config.model.vllm
    path = models.cached_path(config.model.name, config.cache_dir) if vllm is None else vllm.path
    engine = "llamacpp" if vllm is None else "vllm"
    own: dict[str, Any] = {"name": config.model.name, "engine": engine}
    rows = [own | Caching("ready" if path.exists() else "pending").to_dict()]
    cache = model_cache(config)
    for source in file_sources(config):
        caching = cache.look(source).to_dict()
        rows.append({"name": source.name, "engine": "llamacpp"} | caching)
    for model in config.external_models:
        rows.append({"name": model.name, "engine": "external", "state": None})
    return rows


def _bytes(row: dict[str, Any]) -> str:
    done, size = row.get("done_bytes"), row.get("size_bytes")
    if not done:
        return "-"
    return f"{done / _MB:.1f}" + (f" of {size / _MB:.1f}" if size else "")
