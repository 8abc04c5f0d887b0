"""`airan model adapter`: tenants' LoRA adapters, over the admin API."""

from __future__ import annotations

import hashlib
import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from airan.cli.market import JsonFlag, admin, send_file, wants_json
from airan.cli.output import console, emit_json, table
from airan.core.errors import InvalidInputError
from marketplace.adapters.adapter import CONFIG, TENSORS

_PATH = "/admin/v1/adapters"
_MB = 1e6

adapter_app = typer.Typer(help="LoRA adapters, asked for as `base:adapter`.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands, to those of `airan model`."""
    app.add_typer(adapter_app, name="adapter")


@adapter_app.command("add")
def add(
    context: typer.Context,
    base: Annotated[str, typer.Argument(help="The model that it changes.")],
    name: Annotated[str, typer.Argument(help="Its name, behind the model's and a colon.")],
    path: Annotated[Path, typer.Argument(help="llama.cpp: the GGUF file; vLLM: a PEFT folder.")],
    tenant: Annotated[
        str | None, typer.Option(help="Whose it is, by name or id; without, all tenants'.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add an adapter: announce it, send its file, have it checked."""
    body, file = described(path)
    asked = {"base": base, "name": name, "tenant": tenant} | body
    made = admin(
        context, "POST", _PATH, {key: one for key, one in asked.items() if one is not None}
    )
    row = send_file(context, f"{_PATH}/{made['id']}/content", file)
    if wants_json(context, json):
        emit_json(row)
    else:
        console.print(f"{row['model']} is {row['state']}; its id is {row['id']}", markup=False)


@adapter_app.command("list")
def list_adapters(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Of one tenant, by name or id.")] = None,
    json: JsonFlag = False,
) -> None:
    """List the adapters and how far their files are."""
    params = {} if tenant is None else {"tenant": tenant}
    rows = admin(context, "GET", _PATH, params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    columns = ("id", "model", "tenant", "format", "rank", "state", "loaded", "MB")
    shown = [
        (
            row["id"],
            row["model"],
            row["tenant_id"] or "all",
            row["format"],
            row["rank"] or "-",
            row["state"],
            "yes" if row["loaded"] else "no",
            f"{row['size_bytes'] / _MB:.1f}",
        )
        for row in rows
    ]
    table("Adapters", columns, shown)
    for row in rows:
        if row["reason"]:
            console.print(f"{row['model']}: {row['reason']}", markup=False)


@adapter_app.command("remove")
def remove(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="Its id, as `adapter list` shows it.")],
    json: JsonFlag = False,
) -> None:
    """Remove an adapter; requests that have begun with it go on."""
    removed = admin(context, "DELETE", f"{_PATH}/{adapter}")
    if wants_json(context, json):
        emit_json(removed)
    else:
        console.print(f"adapter {removed['id']} is removed")


def described(path: Path) -> tuple[dict[str, Any], Path]:
    """What is to be announced of a GGUF file or a PEFT folder, and the file to be sent.

    Raises:
        InvalidInputError: it cannot be read.
    """
    body: dict[str, Any] = {"format": "gguf"}
    file = path
    try:
        if path.is_dir():
            file = path / TENSORS
            config = json_module.loads((path / CONFIG).read_text(encoding="utf-8"))
            body = {"format": "peft", "config": config}
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return body | {"sha256": digest, "size_bytes": file.stat().st_size}, file
    except (OSError, ValueError) as error:
        raise InvalidInputError("path", f"{file} cannot be read: {error}") from error
