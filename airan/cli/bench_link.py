"""`airan bench link`: block error rate and throughput of PUSCH over SNR."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from airan.cli import context as cli_context
from airan.cli.bench import JsonFlag, SeedOption, SionnaFlag, emit_rows, wants_sionna
from airan.cli.output import console, errors
from airan.core.errors import InvalidInputError

if TYPE_CHECKING:
    from airan.bench.link import LinkConfig, LinkPoint
    from phy.receiver.chain import DemapperName, EqualiserName
    from phy.receiver.channel_estimation import EstimatorName

_MAX_POINTS = 1000


def register(bench_app: typer.Typer) -> None:
    """Adds this module's command to `airan bench`."""
    bench_app.command("link")(link)


def link(
    context: typer.Context,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="AWGN, TDL-A to -E, TDLA30, TDLB100, TDLC300; repeatable."),
    ] = None,
    snr: Annotated[str, typer.Option(help="SNR in dB, FROM:TO:STEP.")] = "0:20:2",
    mcs: Annotated[int, typer.Option(help="MCS index.")] = 16,
    mcs_table: Annotated[int, typer.Option(help="MCS table.")] = 1,
    prbs: Annotated[int, typer.Option(help="PRBs.")] = 25,
    layers: Annotated[int, typer.Option(help="Layers.")] = 1,
    rx: Annotated[int, typer.Option(help="Receive antennas.")] = 2,
    scs_khz: Annotated[int, typer.Option(help="Subcarrier spacing.")] = 30,
    delay_spread_ns: Annotated[float, typer.Option(help="Of TDL-A to -E.")] = 100.0,
    doppler_hz: Annotated[float, typer.Option(help="Largest Doppler shift.")] = 10.0,
    slots: Annotated[int, typer.Option(help="Most slots of a point.")] = 200,
    max_errors: Annotated[int, typer.Option(help="Block errors that end a point.")] = 50,
    iterations: Annotated[int, typer.Option(help="LDPC iterations: our most, Sionna's all.")] = 10,
    estimator: Annotated[str, typer.Option(help="Ours: wiener or ls.")] = "wiener",
    equaliser: Annotated[str, typer.Option(help="Ours: mmse, mmse_irc or zf.")] = "mmse",
    demapper: Annotated[str, typer.Option(help="Ours: max_log or exact.")] = "max_log",
    known_noise: Annotated[
        bool, typer.Option("--known-noise", help="Tell ours the noise variance, as Sionna.")
    ] = False,
    seed: SeedOption = 1,
    csv: Annotated[Path, typer.Option(help="Where the points go.")] = Path("link.csv"),
    png: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("link.png"),
    sionna: SionnaFlag = None,
    json: JsonFlag = False,
) -> None:
    """Simulate block error rate and throughput of PUSCH over SNR; Sionna gets the same samples."""
    from airan.bench import curves
    from airan.bench.link import DEFAULT_CHANNELS, LinkConfig, rows
    from phy import PuschConfig, ReceiverOptions

    config = LinkConfig(
        pusch=PuschConfig(
            n_prb=prbs,
            mcs_table=mcs_table,
            mcs_index=mcs,
            scs_khz=scs_khz,
            n_layers=layers,
            n_rx=rx,
        ),
        channels=tuple(channel or DEFAULT_CHANNELS),
        snr_db=snr_points(snr),
        n_slots=slots,
        max_errors=max_errors,
        delay_spread_ns=delay_spread_ns,
        doppler_hz=doppler_hz,
        seed=seed,
        receiver=ReceiverOptions(
            n_iterations=iterations,
            # Typer knows no lazily imported Literal; ReceiverOptions checks the words.
            estimator=cast("EstimatorName", estimator),
            equaliser=cast("EqualiserName", equaliser),
            demapper=cast("DemapperName", demapper),
        ),
        known_noise=known_noise,
        sionna=wants_sionna(sionna),
    )
    points = _simulate(config)
    try:
        curves.write_csv(points, csv)
        curves.save_plot(points, config.title, png)
    except OSError as error:
        raise InvalidInputError("csv, png", f"cannot be written: {error}") from error
    title = f"SNR for a block error rate of 10%. {config.title}"
    emit_rows(context, title, rows(config, points), json)
    if not (json or cli_context.of(context).json):
        console.print(f"points: {csv}, curves: {png}")


def snr_points(text: str) -> tuple[float, ...]:
    """Parses FROM:TO:STEP, or a single number.

    Raises:
        InvalidInputError: it is neither, or too many points.
    """
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and math.isfinite(numbers[0]):
        return (numbers[0],)
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or numbers[2] <= 0:
        raise InvalidInputError("snr", f"must be FROM:TO:STEP, such as 0:20:2, got {text!r}")
    low, high, step = numbers
    n_points = math.floor((high - low) / step + 1e-9) + 1
    if not 1 <= n_points <= _MAX_POINTS:
        raise InvalidInputError("snr", f"must be 1 to {_MAX_POINTS} points, got {text!r}")
    return tuple(round(low + index * step, 9) for index in range(n_points))


def _simulate(config: LinkConfig) -> list[LinkPoint]:
    from airan.bench.link import simulate

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    points = []
    with Progress(*columns, console=errors, transient=True) as progress:
        n_slots = len(config.channels) * len(config.snr_db) * config.n_slots
        task = progress.add_task("slots", total=n_slots)
        for point in simulate(config, lambda n: progress.advance(task, n)):
            points.append(point)
            progress.update(task, description=f"{point.channel} at {point.snr_db:g} dB")
    return points
