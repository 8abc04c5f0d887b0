"""`airan bench`: how fast and how good Layer 1 is, beside Sionna."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from airan.bench import sionna_peer
from airan.bench.rows import Row
from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, errors, table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SionnaFlag = Annotated[
    bool | None,
    typer.Option("--sionna/--no-sionna", help="Measure Sionna as well. Default: if installed."),
]

bench_app = typer.Typer(help="How fast and how good Layer 1 is.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(bench_app, name="bench")


@bench_app.command("phy")
def phy(
    context: typer.Context,
    sionna: SionnaFlag = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of the peer; ours runs 3x.")] = 5,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores for both. Default: all.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure speed and memory: LDPC decoding, PUSCH reception, PDSCH transmission, import."""
    from airan.bench import speed

    with_peer = wants_sionna(sionna)
    names = tuple(row) if row else None
    options = speed.SpeedOptions(rounds, with_peer, cores, names)
    with errors.status("measuring ...") as status:
        rows = []
        for measured in speed.measure(options):
            rows.append(measured)
            status.update(f"measuring ... {measured.name} done")
    emit_rows(context, "Layer 1 on this machine", rows, json)


def wants_sionna(asked: bool | None) -> bool:
    """Whether to measure Sionna; says how to get it if nobody said no and it is not there.

    Raises:
        NotFoundError: it was asked for and is not installed.
    """
    if asked:
        sionna_peer.require()
    elif asked is None and not sionna_peer.available():
        errors.print(f"Sionna is not installed, so nothing is compared; {sionna_peer.INSTALL}")
    return sionna_peer.available() if asked is None else asked


def emit_rows(context: typer.Context, title: str, rows: Iterable[Row], json: bool) -> None:
    """Prints rows as a table or as JSON."""
    rows = list(rows)
    if json or cli_context.of(context).json:
        emit_json(rows)
        return
    columns = ("name", "value", "unit", "peer", "peer's", "ratio")
    table(
        title,
        columns,
        [(r.name, r.value, r.unit, r.peer, r.peer_value, r.ratio) for r in rows],
    )
    for hardware in dict.fromkeys(r.hardware for r in rows):
        console.print(f"[dim]{hardware}[/]")
