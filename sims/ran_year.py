"""RAN load of many cells over months or years: generated, or one series read from a CSV.

Generated, not measured on a network: `DiurnalProfile`'s day with what makes a year unlike 365
equal days. Load is the share of a cell's PRBs in use, in [0, 1].
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airan.core.clock import DAY_S
from airan.core.errors import ConfigError, InvalidInputError
from sims.ran_load import HOUR_S, DiurnalProfile

Floats = npt.NDArray[np.float32]

START_S = 1_735_516_800.0
"""Unix seconds of the first step: Monday, 30 December 2024, 00:00 UTC."""

_WEEKDAY_LEVEL = (0.97, 1.0, 1.0, 1.02, 1.05, 1.0, 0.95)  # Monday first
_FREE_DAY = DiurnalProfile(morning_peak=0.38, evening_peak=0.62, midday=0.30)


@dataclass(frozen=True)
class YearSettings:
    """How unlike its days are. Every value is assumed, none measured."""

    growth_per_year: float = 0.2
    holidays_per_year: float = 12.0
    """On weekdays, at random; loads as on a weekend, and lower."""
    noise: float = 0.12
    """Standard deviation of the slow noise, relative to the load."""
    noise_hours: float = 2.0
    """Its correlation time."""
    noise_distance: float = 0.3
    """Its correlation distance; the cells lie in a square of side 1."""
    jitter: float = 0.04
    """Standard deviation of the noise from step to step, relative to the load."""
    matches_per_week: float = 0.7
    """In a stadium, on evenings: hours of load around it."""
    crowds_per_cell_month: float = 2.0
    """Flash crowds: at once, gone within an hour or two."""


def shares(
    n_cells: int, days: int, step_s: float, seed: int, settings: YearSettings | None = None
) -> Floats:
    """Generates the load of cells: float32[step, cell], the same for the same arguments.

    Step k is at `START_S + k * step_s`. More days or other steps are another draw.

    Raises:
        InvalidInputError: no cell or day, or steps that do not divide a day.
    """
    _check(n_cells, days, step_s)
    settings = settings or YearSettings()
    random = np.random.default_rng(seed)
    places = random.random((n_cells, 2))
    load = _days(random, n_cells, days, step_s, settings)
    n_steps = len(load)
    noise = _slow_noise(random, places, n_steps, step_s, settings)
    noise += settings.jitter * random.standard_normal((n_steps, n_cells))
    growth = (1.0 + settings.growth_per_year) ** (np.arange(n_steps) * step_s / (365 * DAY_S))
    load *= growth[:, None] * (1.0 + noise)
    _add_matches(load, random, places, step_s, settings)
    _add_crowds(load, random, step_s, settings)
    return np.clip(load, 0.0, 1.0).astype(np.float32)


def places(n_cells: int, seed: int) -> npt.NDArray[np.float64]:
    """Where the cells of `shares` with this seed are, in a square of side 1: [cell, 2]."""
    return np.random.default_rng(seed).random((n_cells, 2))


def read_csv(path: Path) -> tuple[npt.NDArray[np.float64], Floats]:
    """Reads columns `time` (Unix seconds, or ISO 8601, UTC unless it says otherwise) and `share`
    (0..1): Unix seconds and shares, both [sample].

    Raises:
        ConfigError: the file is missing, lacks a column, or a row is out of range or order; the
            message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            samples = [_sample(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"load series {path} cannot be read: {error}",
            remedy="give a CSV file with the columns time,share",
        ) from error
    if not samples:
        raise ConfigError(f"load series {path} has no rows", remedy="give at least one time,share")
    times = np.array([time_s for time_s, _, _ in samples])
    backwards = np.flatnonzero(np.diff(times) <= 0.0)
    if len(backwards):
        line = samples[backwards[0] + 1][2]
        raise ConfigError(
            f"load series {path} line {line}: not after the line before", remedy="sort by time"
        )
    return times, np.array([share for _, share, _ in samples], np.float32)


def _check(n_cells: int, days: int, step_s: float) -> None:
    if n_cells < 1:
        raise InvalidInputError("n_cells", f"must be at least 1, got {n_cells}")
    if days < 1:
        raise InvalidInputError("days", f"must be at least 1, got {days}")
    if not (0.0 < step_s <= DAY_S and DAY_S % step_s == 0.0):
        raise InvalidInputError(
            "step_s", f"must divide a day, got {step_s}", remedy="take 60, 300 or 900"
        )


def _days(
    random: np.random.Generator, n_cells: int, days: int, step_s: float, settings: YearSettings
) -> npt.NDArray[np.float64]:
    """Load by time of day and kind of day, [step, cell]."""
    working = _one_day(DiurnalProfile().load, n_cells, step_s)
    free = _one_day(_FREE_DAY.load, n_cells, step_s) * random.uniform(0.7, 1.15, n_cells)
    weekday = np.arange(days) % 7
    holiday = (weekday < 5) & (random.random(days) < settings.holidays_per_year / 261.0)
    level = np.take(_WEEKDAY_LEVEL, weekday) * np.where(holiday, 0.85, 1.0)
    is_free = (weekday >= 5) | holiday
    load = np.where(is_free[:, None, None], free, working) * level[:, None, None]
    by_step: npt.NDArray[np.float64] = load.reshape(-1, n_cells)
    return by_step


def _one_day(load: Callable[[int, float], float], n_cells: int, step_s: float) -> Floats:
    times_s = np.arange(round(DAY_S / step_s)) * step_s
    values = [[load(cell, time_s) for cell in range(n_cells)] for time_s in times_s]
    return np.array(values, np.float32)


def _slow_noise(
    random: np.random.Generator,
    places: npt.NDArray[np.float64],
    n_steps: int,
    step_s: float,
    settings: YearSettings,
) -> npt.NDArray[np.float64]:
    """AR(1) in time, exponentially correlated in space, [step, cell]."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    covariance = np.exp(-apart / settings.noise_distance) + 1e-9 * np.eye(len(places))
    fresh = random.standard_normal((n_steps, len(places))) @ np.linalg.cholesky(covariance).T
    keep = math.exp(-step_s / (settings.noise_hours * HOUR_S))
    fresh[1:] *= math.sqrt(1.0 - keep * keep)
    for step in range(1, n_steps):
        fresh[step] += keep * fresh[step - 1]
    return settings.noise * fresh


def _add_matches(
    load: npt.NDArray[np.float64],
    random: np.random.Generator,
    places: npt.NDArray[np.float64],
    step_s: float,
    settings: YearSettings,
) -> None:
    """Adds the stadium's evenings: two hours and a half, stronger the nearer the cell."""
    near = np.exp(-0.5 * (np.linalg.norm(places - random.random(2), axis=1) / 0.15) ** 2)
    n_days = round(len(load) * step_s / DAY_S)
    hours = np.arange(len(load)) * step_s / HOUR_S
    for day in np.flatnonzero(random.random(n_days) < settings.matches_per_week / 7.0):
        middle_h = 24.0 * day + 20.0 + random.uniform(-1.0, 1.0)
        shape = np.exp(-0.5 * ((hours - middle_h) / 1.2) ** 4)
        load += random.uniform(0.3, 0.6) * shape[:, None] * near


def _add_crowds(
    load: npt.NDArray[np.float64],
    random: np.random.Generator,
    step_s: float,
    settings: YearSettings,
) -> None:
    """Adds flash crowds: there at once, then decaying."""
    n_steps, n_cells = load.shape
    months = n_steps * step_s / (30.0 * DAY_S)
    for cell in range(n_cells):
        for _ in range(random.poisson(settings.crowds_per_cell_month * months)):
            first = int(random.integers(n_steps))
            lasts_s = random.uniform(0.3, 1.2) * HOUR_S
            tail = np.exp(-np.arange(round(6 * lasts_s / step_s) + 1) * step_s / lasts_s)
            tail = tail[: n_steps - first]
            load[first : first + len(tail), cell] += random.uniform(0.15, 0.5) * tail


def _sample(path: Path, line: int, row: dict[str, str | None]) -> tuple[float, float, int]:
    try:
        time_s, share = _unix_s(row["time"] or ""), float(row["share"] or "")
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"load series {path} line {line}: needs a time and a share, got {dict(row)}",
            remedy="the first line must read time,share; times are Unix seconds or ISO 8601",
        ) from error
    if not (math.isfinite(time_s) and 0.0 <= share <= 1.0):
        raise ConfigError(
            f"load series {path} line {line}: time {time_s} must be finite and share {share}"
            " in 0..1",
            remedy="correct that line",
        )
    return time_s, share, line


def _unix_s(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
