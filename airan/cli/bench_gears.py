"""`airan bench gears`: what a day would make of a GPU's gears, reckoned without one."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from airan.cli.bench import JsonFlag, SeedOption, emit_rows
from airan.cli.output import errors
from airan.core.errors import InvalidInputError
from airan.core.gpu_config import GEARS, SLOT_LIMITS, GpuConfig, check_slot_limits

LimitsOption = Annotated[
    str | None,
    typer.Option(
        "--slot-limits",
        help="Of the fast path, as gpu.slot_limits: parts of a slot's budget. Default: "
        f"{','.join(map(str, SLOT_LIMITS))}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command("gears")(gears)


def slot_limits_of(text: str | None) -> tuple[float, float, float]:
    """What the option says.

    Raises:
        InvalidInputError: not three numbers, or out of order.
    """
    if text is None:
        return SLOT_LIMITS
    try:
        raise_at, aim_at, lower_at = map(float, text.split(","))
        return check_slot_limits((raise_at, aim_at, lower_at))
    except ValueError as error:
        raise InvalidInputError(
            "slot-limits", f"{text!r}: {error}", remedy="give three parts, such as 0.92,0.85,0.75"
        ) from None


def gears(
    context: typer.Context,
    product: Annotated[
        str, typer.Option(help="GPU, one that has a measured cost model.")
    ] = "H200-141GB",
    sms: Annotated[int, typer.Option(min=16, help="Its SMs.")] = 132,
    gear: Annotated[
        list[str] | None,
        typer.Option(help="SMs of Layer 1 and the engine, such as 96+32; repeatable, ascending."),
    ] = None,
    limits: LimitsOption = None,
    cells: Annotated[int, typer.Option(help="Cells of the generated day.")] = 20,
    speed: Annotated[float, typer.Option(help="Times as fast as the clock.")] = 1000.0,
    seed: SeedOption = 1,
    json: JsonFlag = False,
) -> None:
    """Reckon a day of RAN load under the fast path: time in each gear, SM time in use, late slots.

    Simulated: slots take what the GPU's measured cost model says, alone on it. The row `at best` is
    what gears could reach at all, chosen by one who knows every slot 50 ms ahead.
    """
    from airan.bench.gear_day import GearDayOptions, play, rows

    wanted = GEARS if gear is None else _gears(gear)
    options = GearDayOptions(product, sms, wanted, slot_limits_of(limits), cells, speed, seed)
    with errors.status("reckoning ..."):
        found = rows(options, play(options))
    emit_rows(context, "A day of gears, simulated", found, json)


def _gears(texts: list[str]) -> tuple[str, ...]:
    """What the option says.

    Raises:
        InvalidInputError: not gears, or they do not ascend.
    """
    try:
        return GpuConfig(gears=tuple(texts)).gears
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInputError("gear", why, remedy="give them as 16+116, 96+32") from None
