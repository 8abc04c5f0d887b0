"""Pictures of what was seen: slots and the AI's steps over time, and a day of gears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airan.bench.sharing.report import BUDGETS_US
from orchestrator.sm_board import Gear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"pusch": "#1f77c8", "pdsch": "#4c9a16"}
_STEP, _GEAR, _BUDGET = "#d98200", "#5f6b76", "#c62828"
_PARTS = 400
"""Of a day, each drawn by its longest slot."""


def save_run(series: Mapping[str, Any], title: str, path: Path, length_ms: float = 300.0) -> None:
    """Draws the slots of a run, and where the AI's steps ended, from its middle on.

    Args:
        series: as `report.series` gives it.
        title: of the picture.
        path: of the PNG.
        length_ms: how much of the run.

    Raises:
        OSError: `path` cannot be written.
    """
    figure = _figure(1)
    (axes,) = figure.axes
    slots = [one for one in series["slots"] if one[2] is not None]
    from_ms = slots[len(slots) // 2][0] if slots else 0.0
    until_ms = from_ms + length_ms
    for ended_ms in series["steps_ended_ms"]:
        if from_ms <= ended_ms < until_ms:
            axes.axvline(ended_ms - from_ms, color=_STEP, alpha=0.6, linewidth=0.8)
    for channel, colour in _COLOURS.items():
        own = [one for one in slots if one[1] == channel and from_ms <= one[0] < until_ms]
        at_ms = [one[0] - from_ms for one in own]
        axes.plot(at_ms, [one[2] for one in own], ".", color=colour, label=channel.upper())
        axes.axhline(BUDGETS_US[channel], color=colour, linestyle=":", linewidth=1)
    axes.plot([], [], color=_STEP, label="the AI's step ends")
    axes.set(xlabel="ms", ylabel="kernels of a slot, us", ylim=(0, None))
    _save(figure, title, path)


def save_day(
    series: Mapping[str, Any], gears: Sequence[Gear], hours: float, title: str, path: Path
) -> None:
    """Draws the longest slots of a day and the RAN's multiprocessors over its hours.

    Args:
        series: of `measure_day`.
        gears: of the day.
        hours: it has.
        title: of the picture.
        path: of the PNG.

    Raises:
        OSError: `path` cannot be written.
    """
    figure = _figure(2)
    above, below = figure.axes
    rows = series["slots"]
    first_s, last_s = (rows[0][0], rows[-1][0]) if rows else (0.0, 0.0)
    last_s = max(last_s, first_s + 1e-3)
    scale = hours / (last_s - first_s)
    for channel, colour in _COLOURS.items():
        longest = [0.0] * _PARTS
        for row in rows:
            if row[1] == channel and row[3] != 0 and row[4] is not None:
                part = min(_PARTS - 1, int((row[0] - first_s) / (last_s - first_s) * _PARTS))
                longest[part] = max(longest[part], row[4] / BUDGETS_US[channel])
        at_h = [(part + 0.5) * hours / _PARTS for part in range(_PARTS)]
        above.plot(at_h, longest, color=colour, label=f"{channel.upper()}, longest slot")
    above.axhline(1.0, color=_BUDGET, linestyle=":", label="budget")
    above.set(ylabel="kernels, of the budget", ylim=(0, None))
    changes = [one for one in series["changes"] if one["after"] < len(gears)]
    at_h = [(one["ordered_ns"] / 1e9 - first_s) * scale for one in changes]
    sms = [gears[one["after"]].ran_sms for one in changes]
    below.step([*at_h, hours], [*sms, sms[-1]] if sms else [0], where="post", color=_GEAR)
    below.set(xlabel="hour of the day", ylabel="SMs of the RAN", ylim=(0, None), xlim=(0, hours))
    _save(figure, title, path)


def _figure(n_rows: int) -> Figure:
    # Imported here: it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * n_rows + 0.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(n_rows, 1, sharex=True)
    return figure


def _save(figure: Figure, title: str, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", fontsize=8, ncols=4, frameon=False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
