"""RAN load of a site's cells over a day: a generated diurnal profile, or one read from a CSV.

Load is the share of a cell's PRBs in use, in [0, 1].
"""

from __future__ import annotations

import csv
import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airan.core.clock import DAY_S
from airan.core.errors import ConfigError

HOUR_S = 3600.0


class LoadProfile(Protocol):
    """What share of its PRBs a cell uses at a time of day."""

    def load(self, cell: int, time_of_day_s: float) -> float:
        """Load of cell number `cell` (0-based) at `time_of_day_s` seconds after midnight."""
        ...


@dataclass(frozen=True)
class DiurnalProfile:
    """A generated working day: a quiet night, a steep morning peak and a broader evening one.

    Generated, not measured on a network. Summed over 18 cells of a 20-cell GPU it uses about a
    third of the GPU over the day, the RAN-only utilisation operators report (30-33 %, NVIDIA and
    SoftBank 2024). Cells differ a little in level and in time, so their peaks do not coincide.
    """

    night: float = 0.05
    morning_peak: float = 0.93
    evening_peak: float = 0.60
    midday: float = 0.25
    spread_s: float = 900.0

    def load(self, cell: int, time_of_day_s: float) -> float:
        # The golden-ratio sequence spreads the cells evenly, whatever their number.
        position = (cell * 0.6180339887498949) % 1.0 - 0.5
        hour = ((time_of_day_s + position * self.spread_s) % DAY_S) / HOUR_S
        level = 1.0 + 0.1 * position
        shape = (
            self.night
            + self.midday * _plateau(hour, 7.0, 22.5, 1.2)
            + (self.morning_peak - self.night - self.midday) * _bump(hour, 8.7, 0.85)
            + (self.evening_peak - self.night - self.midday) * _bump(hour, 19.5, 1.5)
        )
        return min(1.0, max(0.0, shape * level))


@dataclass(frozen=True)
class TraceProfile:
    """A profile read from a CSV; all cells follow it. Between points it is interpolated."""

    hours: tuple[float, ...]
    loads: tuple[float, ...]

    @classmethod
    def from_csv(cls, path: Path) -> TraceProfile:
        """Reads columns `hour` (0..24, ascending) and `load` (0..1).

        Raises:
            ConfigError: the file is missing, lacks a column, or a row is out of range or order;
                the message names the line.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"RAN trace {path} cannot be read: {error}",
                remedy="give a CSV file with the columns hour,load",
            ) from error
        points = [_point(path, number, row) for number, row in enumerate(rows, start=2)]
        if not points:
            raise ConfigError(f"RAN trace {path} has no rows", remedy="give at least one hour,load")
        hours = tuple(hour for hour, _ in points)
        if any(later <= earlier for earlier, later in itertools.pairwise(hours)):
            raise ConfigError(
                f"RAN trace {path}: hours must ascend", remedy="sort the rows by hour"
            )
        return cls(hours, tuple(load for _, load in points))

    def load(self, cell: int, time_of_day_s: float) -> float:  # noqa: ARG002 - one for all cells
        hour = (time_of_day_s % DAY_S) / HOUR_S
        index = bisect_right(self.hours, hour)
        if index == 0 or index == len(self.hours):
            before_hour, before = self.hours[-1] - 24.0, self.loads[-1]
            after_hour, after = self.hours[0], self.loads[0]
            if index:
                before_hour, after_hour = before_hour + 24.0, after_hour + 24.0
        else:
            before_hour, before = self.hours[index - 1], self.loads[index - 1]
            after_hour, after = self.hours[index], self.loads[index]
        weight = (hour - before_hour) / (after_hour - before_hour)
        return before + (after - before) * weight


def _bump(hour: float, centre: float, width: float) -> float:
    return math.exp(-0.5 * ((hour - centre) / width) ** 2)


def _plateau(hour: float, rise: float, fall: float, steepness_h: float) -> float:
    up = 1.0 / (1.0 + math.exp(-(hour - rise) / steepness_h * 4.0))
    down = 1.0 / (1.0 + math.exp((hour - fall) / steepness_h * 4.0))
    return up * down


def _point(path: Path, line: int, row: dict[str, str | None]) -> tuple[float, float]:
    try:
        hour, load = float(row["hour"] or ""), float(row["load"] or "")
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"RAN trace {path} line {line}: needs the numbers hour and load, got {dict(row)}",
            remedy="the first line must read hour,load and every other hold two numbers",
        ) from error
    if not (0.0 <= hour <= 24.0 and 0.0 <= load <= 1.0):
        raise ConfigError(
            f"RAN trace {path} line {line}: hour {hour} must be in 0..24 and load {load} in 0..1",
            remedy="correct that line",
        )
    return hour, load
