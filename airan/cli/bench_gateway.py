"""`airan bench gateway`: what the marketplace's gateway costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airan.cli.bench import JsonFlag, emit_rows
from airan.cli.output import errors
from airan.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("gateway")(gateway)


def gateway(
    context: typer.Context,
    streams: Annotated[
        list[int] | None, typer.Option(min=1, help="At once. Default: 1, 32, 128.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Streams of each client.")] = 4,
    requests: Annotated[int, typer.Option(min=64, help="Requests without a stream.")] = 1500,
    litellm: Annotated[
        Path | None, typer.Option(help="The program litellm, in an environment of its own.")
    ] = None,
    ways: Annotated[
        bool, typer.Option(help="Also without Ray, and behind Ray Serve's proxy.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Measure the time our gateway adds to a simulated engine's, beside LiteLLM's proxy."""
    from airan.bench.gateway.run import GatewayOptions, measure

    if litellm is not None and not litellm.is_file():
        raise ConfigError(
            f"there is no program {litellm}",
            remedy="install LiteLLM with its extra `proxy` in a venv, and name its bin/litellm",
        )
    options = GatewayOptions(
        streams=tuple(streams or (1, 32, 128)),
        rounds=rounds,
        requests=requests,
        litellm=litellm,
        ways=ways,
    )
    with errors.status("measuring ...") as status:
        rows = measure(options, status.update)
    emit_rows(context, "The gateway before a simulated engine, on this machine", rows, json)
