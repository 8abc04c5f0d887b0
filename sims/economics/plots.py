"""Plots as SVG text: they stand in a page by themselves, without scripts or fonts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

COLOURS = ("#1f5fbf", "#d97706", "#15803d", "#9333ea", "#b91c1c", "#0e7490")
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 16, 48


def money(value: float) -> str:
    """USD with a scale, such as `$3.3M`."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale * 0.9995:
            return f"{sign}${size / scale:.3g}{unit}"
    return f"{sign}${size:.3g}"


def lines(series: Sequence[tuple[str, Floats]], x_name: str) -> str:
    """Lines of money over their index, with the zero line and a legend."""
    ticks = _ticks(min(float(y.min()) for _, y in series), max(float(y.max()) for _, y in series))
    last = max(len(y) for _, y in series) - 1
    parts = _frame(ticks, x_name)
    for month in range(0, last + 1, max(1, last // 5 // 6 * 6 or 1)):
        x = _x(month / last)
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, str(month), "middle"))
    for index, (name, y) in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join(f"{_x(i / last):.1f},{_y(float(v), ticks):.1f}" for i, v in enumerate(y))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts.append(_text(_LEFT + 12, _TOP + 16 + 17 * index, name, "start", colour))
    return _svg(parts, _HEIGHT, f"{x_name}: {', '.join(name for name, _ in series)}")


def bars(rows: Sequence[tuple[str, float, float, str]], centre: float) -> str:
    """Horizontal bars from `low` to `high` around `centre` (a tornado): name, low, high, label."""
    least = min([centre, *(min(row[1:3]) for row in rows)])
    most = max([centre, *(max(row[1:3]) for row in rows)])
    span = (most - least) or 1.0
    left, right = 290, 60
    scale = (_WIDTH - left - right) / span
    height = 34 + 32 * len(rows)
    parts = []
    for index, (name, low, high, label) in enumerate(rows):
        y = 14 + 32 * index
        start, end = (
            left + (min(low, high) - least) * scale,
            left + (max(low, high) - least) * scale,
        )
        colour = COLOURS[0] if high >= low else COLOURS[1]
        parts.append(_text(left - 10, y + 7, name, "end"))
        parts.append(_text(left - 10, y + 20, label, "end", "#6b7280", 10))
        parts.append(
            f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="18" '
            f'rx="2" fill="{colour}"/>'
        )
    x = left + (centre - least) * scale
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 22}" stroke="#111827"/>')
    parts.append(_text(x, height - 6, money(centre), "middle"))
    for value, at in ((least, left), (most, _WIDTH - right)):
        if abs(at - x) > 60:
            parts.append(_text(at, height - 6, money(value), "middle", "#6b7280"))
    return _svg(parts, height, "tornado")


def histogram(values: Floats, x_name: str) -> str:
    """How often values of money fall where; what is under nought is drawn in another colour."""
    low, high = (float(v) for v in np.percentile(values, [0.2, 99.8]))
    if high <= low:
        low, high = low - 1.0, high + 1.0
    counts, edges = np.histogram(values, bins=48, range=(low, high))
    parts = [_text(_LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _HEIGHT - 8, x_name, "middle")]
    base = _HEIGHT - _BOTTOM
    for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True):
        x0, x1 = (_x((float(edge) - low) / (high - low)) for edge in (start, end))
        tall = float(count) / float(counts.max()) * (base - _TOP)
        colour = COLOURS[1] if (start + end) / 2 < 0 else COLOURS[0]
        parts.append(
            f'<rect x="{x0:.1f}" y="{base - tall:.1f}" width="{max(0.5, x1 - x0 - 1):.1f}" '
            f'height="{tall:.1f}" fill="{colour}"/>'
        )
    parts.append(_rule(base))
    for tick in _ticks(low, high):
        if low <= tick <= high:
            parts.append(_text(_x((tick - low) / (high - low)), base + 16, money(tick), "middle"))
    return _svg(parts, _HEIGHT, x_name)


def stacked(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """One horizontal bar a row, made of named parts of money, with a legend below."""
    most = max(sum(part for _, part in parts) for _, parts in rows) or 1.0
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    left = 150
    drawn, height = [], 40 * len(rows) + 22 * math.ceil(len(names) / 2) + 12
    for index, (label, parts) in enumerate(rows):
        x, y = float(left), 8 + 40 * index
        drawn.append(_text(left - 10, y + 18, label, "end"))
        for name, part in parts:
            width = part / most * (_WIDTH - left - 80)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="26" fill="{colour}"/>'
            )
            if width > 52:
                drawn.append(_text(x + width / 2, y + 17, money(part), "middle", "#ffffff"))
            x += width
        drawn.append(_text(x + 6, y + 17, money(sum(part for _, part in parts)), "start"))
    for index, name in enumerate(names):
        x, y = left + 270 * (index % 2), 40 * len(rows) + 12 + 22 * (index // 2)
        drawn.append(
            f'<rect x="{x}" y="{y}" width="12" height="12" fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
        drawn.append(_text(x + 18, y + 11, name, "start"))
    return _svg(drawn, height, "parts")


def _ticks(low: float, high: float) -> list[float]:
    low, high = min(low, 0.0), max(high, 0.0)
    raw = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, last + 1)]


def _frame(ticks: Sequence[float], x_name: str) -> list[str]:
    parts = []
    for tick in ticks:
        y = _y(tick, ticks)
        parts.append(_rule(y, "#111827" if tick == 0 else "#e5e7eb"))
        parts.append(_text(_LEFT - 8, y + 4, money(tick), "end"))
    parts.append(_text(_LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _HEIGHT - 8, x_name, "middle"))
    return parts


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _rule(y: float, colour: str = "#111827") -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>'
    )


def _text(
    x: float, y: float, words: str, anchor: str, colour: str = "#374151", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}">{escape(words)}</text>'
    )


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
