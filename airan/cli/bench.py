"""`airan bench`: how fast and how good Layer 1 is, beside Sionna and 3GPP's requirements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from airan.bench import sionna_peer
from airan.bench.rows import Row
from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, errors, table

if TYPE_CHECKING:
    from airan.bench.requirements import RequirementResult

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SionnaFlag = Annotated[
    bool | None,
    typer.Option("--sionna/--no-sionna", help="Compare with Sionna. Default: if installed."),
]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]

_BUSY_LOAD = 0.7

bench_app = typer.Typer(
    help="How fast and how good Layer 1 and the orchestrator are.", no_args_is_help=True
)


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
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure an NVIDIA GPU instead.")] = False,
    section: Annotated[
        list[str] | None,
        typer.Option(help="With --gpu: coding, stages, bler, slots, ofdm, sionna, cost."),
    ] = None,
    slots: Annotated[int, typer.Option(help="With --gpu: slots of each run.")] = 10_000,
    cells: Annotated[
        list[int] | None, typer.Option(help="With --gpu: cells of the runs. Default: 1, 8, 20, 40.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="With --gpu: write everything measured to this file.")
    ] = None,
    cost_model: Annotated[
        Path | None, typer.Option(help="With --gpu: write the cost model to this file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure speed and memory: LDPC decoding, PUSCH reception, PDSCH transmission, import.

    With --gpu: coding, slots of 1 to 40 cells at the radio's pace, OFDM, and a cost model.
    """
    if gpu:
        from airan.bench.gpu import SECTIONS, GpuOptions
        from airan.cli import bench_gpu

        wanted = tuple(section or SECTIONS)
        compares = "sionna" in wanted and wants_sionna(sionna)
        of_gpu = GpuOptions(wanted, slots, tuple(cells or (1, 8, 20, 40)), compares)
        files = bench_gpu.Files(report, cost_model)
        bench_gpu.run(context, of_gpu, files, as_json=json)
        return
    from airan.bench import speed

    load = os.getloadavg()[0]
    if load > _BUSY_LOAD:
        errors.print(
            f"other work keeps this machine busy (load average {load:.1f}): times will be too "
            "long, and longer for whoever uses more threads"
        )
    names = tuple(row) if row else None
    options = speed.SpeedOptions(rounds, wants_sionna(sionna), cores, names)
    rows = []
    with errors.status("measuring ...") as status:
        for measured in speed.measure(options):
            rows.append(measured)
            status.update(f"measuring ... {measured.name} is done")
    emit_rows(context, "Layer 1 on this machine", rows, json)


@bench_app.command("coding")
def coding(
    context: typer.Context,
    iterations: Annotated[int, typer.Option(help="LDPC iterations of both.")] = 10,
    blocks: Annotated[int, typer.Option(help="Most code blocks a point.")] = 1000,
    schedule: Annotated[str, typer.Option(help="Sionna's: flooding or layered.")] = "flooding",
    seed: SeedOption = 1,
    json: JsonFlag = False,
) -> None:
    """Compare LDPC decoding with Sionna's min-sum on the same LLRs over AWGN.

    Exit code 1 if ours needs over 0.1 dB more SNR for a block error rate of 10% or 1%.
    """
    from airan.bench import coding

    config = coding.CodingConfig(
        n_iterations=iterations, n_blocks=blocks, schedule=schedule, seed=seed
    )
    with errors.status("simulating ...") as status:
        gaps = list(coding.compare(config, status.update))
    emit_rows(context, "SNR that LDPC decoding needs", [gap.row(config) for gap in gaps], json)
    if not all(gap.ok for gap in gaps):
        raise typer.Exit(1)


@bench_app.command("requirements")
def requirements(
    context: typer.Context,
    bandwidth_mhz: Annotated[
        list[int] | None, typer.Option(help="20 or 100; may be repeated. Default: both.")
    ] = None,
    rx: Annotated[
        list[int] | None, typer.Option(help="Antennas, 2, 4 or 8; repeatable. Default: 2, 4.")
    ] = None,
    frc: Annotated[
        list[str] | None, typer.Option(help="Only reference channels that start so; repeatable.")
    ] = None,
    blocks: Annotated[int, typer.Option(help="Transport blocks for each SNR.")] = 100,
    seed: SeedOption = 1,
    json: JsonFlag = False,
) -> None:
    """Check TS 38.104 8.2.1: the SNR at which PUSCH reaches 70% of its maximum throughput.

    Exit code 1 if a requirement is missed.
    """
    from airan.bench import requirements

    options = requirements.RequirementOptions(n_blocks=blocks, seed=seed)
    wanted = requirements.select(
        bandwidths_mhz=tuple(bandwidth_mhz or (20, 100)),
        n_rx=tuple(rx or (2, 4)),
        frcs=tuple(frc or ("",)),
    )
    results = []
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("requirements", total=len(wanted))
        for result in requirements.measure(
            wanted, options, lambda done: progress.update(task, description=done)
        ):
            results.append(result)
            progress.advance(task)
    if json or cli_context.of(context).json:
        emit_json([result.row for result in results])
    else:
        _print_requirements(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _print_requirements(results: Sequence[RequirementResult]) -> None:
    rows = [
        (
            result.requirement.frc,
            f"{result.requirement.profile}-{result.requirement.doppler_hz:g}",
            result.requirement.n_rx,
            result.requirement.snr_db,
            result.snr_db,
            result.margin_db,
            f"{result.throughput:.0%}",
            "pass" if result.passed else "FAIL",
        )
        for result in results
    ]
    columns = ("channel", "radio", "rx", "required", "measured", "margin", "there", "")
    title = (
        "SNR in dB for 70% of PUSCH's maximum throughput, and the throughput at the required SNR\n"
        "TS 38.104 V16.4.0 8.2.1, radio simulated"
    )
    table(title, columns, rows)


def wants_sionna(asked: bool | None) -> bool:
    """Whether to compare with Sionna; says how to get it if nobody said no and it is not there.

    Raises:
        NotFoundError: it was asked for and is not installed.
    """
    if asked:
        sionna_peer.require()
    elif asked is None and not sionna_peer.available():
        errors.print(
            f"Sionna is not installed, so nothing is compared; {escape(sionna_peer.INSTALL)}"
        )
    return sionna_peer.available() if asked is None else asked


def emit_rows(context: typer.Context, title: str, rows: Sequence[Row], json: bool) -> None:
    """Prints rows as a table or as JSON."""
    if json or cli_context.of(context).json:
        emit_json(rows)
        return
    columns = ("name", "value", "unit", "peer", "peer's", "ratio")
    cells = [(r.name, r.value, r.unit, r.peer, r.peer_value, r.ratio) for r in rows]
    table(title, columns, cells)
    for hardware in dict.fromkeys(r.hardware for r in rows):
        console.print(f"[dim]{hardware}[/]")
