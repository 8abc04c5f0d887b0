"""Link curves as CSV and as a picture."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airan.bench.link import OURS, LinkPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1f77c8", "#c62828", "#4c9a16", "#d98200", "#7b3fa0", "#2a8f8f", "#5f6b76", "#a0522d")


def write_csv(points: Sequence[LinkPoint], path: Path) -> None:
    """Writes one line a point.

    Raises:
        OSError: `path` cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(LinkPoint))
        writer.writerows(dataclasses.astuple(point) for point in points)


def save_plot(points: Sequence[LinkPoint], title: str, path: Path) -> None:
    """Writes a PNG of block error rate and throughput over SNR; needs no display.

    Raises:
        OSError: `path` cannot be written.
    """
    # Imported here: it takes half a second that only the end of a bench has to spare.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    bler, throughput = figure.subplots(1, 2)
    for index, channel in enumerate(dict.fromkeys(point.channel for point in points)):
        for receiver in dict.fromkeys(point.receiver for point in points):
            curve = [p for p in points if (p.channel, p.receiver) == (channel, receiver)]
            _draw(bler, throughput, curve, _COLOURS[index % len(_COLOURS)])
    bler.set_yscale("log")
    bler.set_ylim(0.5 / max(point.n_slots for point in points), 1.2)
    bler.set_ylabel("block error rate (95% confidence; triangles: no error, upper limit)")
    throughput.set_ylabel("throughput in Mb/s")
    throughput.set_ylim(bottom=0)
    for axes in (bler, throughput):
        axes.set_xlabel("SNR in dB")
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    throughput.legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(bler: Axes, throughput: Axes, curve: Sequence[LinkPoint], colour: str) -> None:
    ours = curve[0].receiver == OURS
    line = "-" if ours else "--"
    marker = "o" if ours else "s"
    faulty = [point for point in curve if point.n_errors]
    bars = (
        [point.bler - point.bler_low for point in faulty],
        [point.bler_high - point.bler for point in faulty],
    )
    bler.errorbar(
        [point.snr_db for point in faulty],
        [point.bler for point in faulty],
        yerr=bars,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3,
        linewidth=1.2,
        capsize=2,
        elinewidth=0.8,
    )
    # Where no block was wrong, only the upper limit has a place on a logarithmic axis.
    faultless = [point for point in curve if not point.n_errors]
    bler.plot(
        [point.snr_db for point in faultless],
        [point.bler_high for point in faultless],
        color=colour,
        linestyle="none",
        marker="v",
        markersize=5,
        fillstyle="full" if ours else "none",
    )
    throughput.plot(
        [point.snr_db for point in curve],
        [point.throughput_mbps for point in curve],
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3,
        linewidth=1.2,
        label=f"{curve[0].channel}, {curve[0].receiver}",
    )
