"""What the orchestrator's commands share: one question to its control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from airan.cli import context as cli_context
from orchestrator.api.client import ControlClient

Result = TypeVar("Result")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(help="At most this many.", min=1, max=100_000)]


def ask(context: typer.Context, question: Callable[[ControlClient], Awaitable[Result]]) -> Result:
    """One question to the control plane of the running site, or of `--remote`."""
    address, tls = cli_context.of(context).control()

    async def talk() -> Result:
        async with ControlClient(address, tls=tls) as client:
            return await question(client)

    return cli_context.run(talk())


def wants_json(context: typer.Context, json: bool) -> bool:
    """Whether to print JSON, by the command's flag or the global one."""
    return json or cli_context.of(context).json
