"""`airan certs`: certificates for a control plane that others than this machine may call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airan.cli.asking import JsonFlag, wants_json
from airan.cli.output import console, emit_json
from airan.core.errors import InvalidInputError
from orchestrator.api import certificates

certs_app = typer.Typer(help="Certificates for mutual TLS.", no_args_is_help=True)


@certs_app.callback()
def certs() -> None:
    """Certificates for mutual TLS."""


@certs_app.command("make")
def make(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where; what is there already is kept.")],
    host: Annotated[list[str], typer.Option(help="Name or address of the server; repeatable.")],
    client: Annotated[
        list[str] | None, typer.Option(help="NAME=ROLE; repeatable. Default: one of each role.")
    ] = None,
    days: Annotated[int, typer.Option(help="How long they are valid.", min=1)] = 365,
    json: JsonFlag = False,
) -> None:
    """Make an authority, and certificates for a server and for clients with a role."""
    made = certificates.make(folder, host, _clients(client or ()), days)
    if wants_json(context, json):
        emit_json([str(path) for path in made])
        return
    for path in made:
        console.print(f"made {path} and its key")
    if not made:
        console.print(f"all of it is in {folder} already")


def _clients(given: tuple[str, ...] | list[str]) -> dict[str, str]:
    if not given:
        return {role: role for role in certificates.ROLES}
    clients = {}
    for one in given:
        name, equals, role = one.partition("=")
        if not (name and equals):
            raise InvalidInputError("client", f"{one!r} is not NAME=ROLE", remedy="alice=operator")
        clients[name] = role
    return clients
