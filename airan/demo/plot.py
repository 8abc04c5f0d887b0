"""The demo's day as one picture: GPU shares, slot latency, inference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from airan.demo.report import DemoReport, Recorder
from airan.site.snapshot import format_time_of_day

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOUR_S = 3600.0
RAN, RAN_LIGHT, AI, AI_LIGHT = "#1f77c8", "#a9cdee", "#4c9a16", "#c5e3ab"
WARN, BAD, GREY = "#d98200", "#c62828", "#5f6b76"


def save_plot(recorder: Recorder, report: DemoReport, path: Path) -> None:
    """Writes the PNG; needs no display.

    Raises:
        OSError: `path` cannot be written.
    """
    # Imported here: it takes half a second that only the end of a demo has to spare.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    shares, latency, inference = figure.subplots(3, 1, sharex=True)
    hours = [time_s / HOUR_S for time_s in recorder.column("site_time_s") if time_s is not None]
    _draw_shares(shares, hours, recorder)
    _draw_latency(latency, hours, recorder, report)
    _draw_inference(inference, hours, recorder)
    for axes in (shares, latency, inference):
        _mark_revocations(axes, recorder)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, ncols=6, frameon=False)
    _label_hours(inference, hours)
    figure.suptitle(_title(recorder, report), fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _title(recorder: Recorder, report: DemoReport) -> str:
    return (
        f"{recorder.label}\n"
        f"utilisation {report.utilisation:.0%} (RAN only {report.utilisation_ran_only:.0%})   "
        f"slots late {report.slots_late:,} of {report.slots:,}   "
        f"tokens lost {report.tokens_lost:,} of {report.tokens_generated:,}   "
        f"revenue ${report.revenue_usd:,.2f}"
    )


def _values(recorder: Recorder, name: str, scale: float = 1.0) -> list[float]:
    """A column for matplotlib, where a gap is NaN."""
    return [math.nan if value is None else value * scale for value in recorder.column(name)]


def _draw_shares(axes: Axes, hours: list[float], recorder: Recorder) -> None:
    held = _values(recorder, "ran_held", 100)
    leased = [a + b for a, b in zip(held, _values(recorder, "ai_leased", 100), strict=True)]
    busy = [a + b for a, b in zip(held, _values(recorder, "ai_busy", 100), strict=True)]
    axes.fill_between(hours, held, leased, step="post", color=AI_LIGHT, lw=0, label="AI leased")
    axes.fill_between(hours, held, busy, step="post", color=AI, lw=0, label="AI generating")
    axes.fill_between(hours, held, step="post", color=RAN_LIGHT, lw=0, label="RAN held")
    need = _values(recorder, "ran_demand", 100)
    axes.fill_between(hours, need, color=RAN, lw=0, label="RAN needed")
    axes.set(ylim=(0, 100), ylabel="share of all SMs, %")
    axes.set_title("GPU shares", loc="left", fontsize=11)


def _draw_latency(axes: Axes, hours: list[float], recorder: Recorder, report: DemoReport) -> None:
    for name, label, colour in (("p50_us", "p50", RAN), ("p99_us", "p99", "#7b52c7")):
        axes.plot(hours, _values(recorder, name, 1e-3), color=colour, lw=1.2, label=label)
    axes.plot(hours, _values(recorder, "max_us", 1e-3), color=WARN, lw=0.8, label="max")
    budget_ms = report.slot_budget_us / 1000
    axes.axhline(budget_ms, color=BAD, ls="--", lw=1.2, label=f"budget {budget_ms:g} ms")
    clock = f", slowed clock, {report.slot_slowdown:g}x" if report.slot_slowdown > 1 else ""
    axes.set(ylabel=f"ms{clock}")
    axes.set_title("Slot latency against budget", loc="left", fontsize=11)
    axes.set_ylim(bottom=0)


def _draw_inference(axes: Axes, hours: list[float], recorder: Recorder) -> None:
    tokens = _values(recorder, "tokens_per_s")
    axes.fill_between(hours, tokens, color=AI, alpha=0.25, lw=0)
    axes.plot(hours, tokens, color=AI, lw=1.2, label="tokens/s")
    axes.set(ylabel="tokens/s", xlabel="site time of day")
    axes.set_title("Inference", loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    waiting = axes.twinx()
    waiting.step(hours, _values(recorder, "waiting"), where="post", color=WARN, lw=1)
    waiting.set_ylabel("requests waiting", color=WARN)
    waiting.set_ylim(bottom=0)
    waiting.spines["top"].set_visible(False)
    # Only the left axes has a legend.
    axes.plot([], [], color=WARN, lw=1, label="requests waiting")


def _mark_revocations(axes: Axes, recorder: Recorder) -> None:
    for number, event in enumerate(recorder.revocations()):
        label = "lease revoked" if number == 0 else None
        axes.axvline(event.site_time_s / HOUR_S, color=GREY, ls=":", lw=1.2, label=label)


def _label_hours(axes: Axes, hours: list[float]) -> None:
    if not hours:
        return
    span = max(hours) - min(hours)
    step = 3 if span > 8 else 1
    ticks = range(math.ceil(min(hours) / step) * step, math.floor(max(hours)) + 1, step)
    axes.set_xlim(min(hours), max(*hours, min(hours) + 0.1))
    if len(ticks) > 0:
        axes.set_xticks(list(ticks), [format_time_of_day(tick * HOUR_S) for tick in ticks])
