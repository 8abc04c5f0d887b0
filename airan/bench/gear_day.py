"""A day of RAN load under the fast path, reckoned without a GPU: slots take what the measured cost
model says of them. Beside it what gears could reach at best, chosen by one who knows what comes.

Simulated, and kind to both sides: nothing is added for the memory that Layer 1 and the engine
share, nor for the host, the engine always has work, and a gear holds at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airan.bench.rows import Row, row
from airan.core.config import SiteConfig
from airan.core.errors import InvalidInputError
from airan.core.gpu_config import GEARS, SLOT_LIMITS, GpuConfig
from airan.site.cell_sizing import carrier_of
from airan.site.gpu_slots import BUDGET_US, SLOT_S
from airan.site.l1_gpu import fast_path_settings
from orchestrator.cell_demand import CellDemand
from orchestrator.fast_path import FastPath, FastPathSettings, SlotExpected, SlotSeen
from orchestrator.gear_costs import CHANNELS, GearCosts
from phy.runtime.timing import SlotTiming
from sims.ran_load import DiurnalProfile

_PATTERN = ["pusch" if kind == "U" else "pdsch" for kind in SlotTiming().tdd_pattern]
_DRAW_SLOTS = 20
_WINDOW_SLOTS = 100
_FORESIGHT_PART = 0.95
"""Of its budget: what one who knows every slot lets the longest take."""


@dataclass(frozen=True)
class GearDayOptions:
    """What is played.

    Attributes:
        product: of GPU, that has a measured cost model; with its SMs.
        gears: SMs of Layer 1 and the engine, ascending.
        slot_limits: as `gpu.slot_limits`.
        n_cells: cells of the generated day.
        speed: times as fast as the clock.
        seed: of what is granted.

    Raises:
        InvalidInputError: out of range.
    """

    product: str = "H200-141GB"
    sm_count: int = 132
    gears: tuple[str, ...] = GEARS
    slot_limits: tuple[float, float, float] = SLOT_LIMITS
    n_cells: int = 20
    speed: float = 1000.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n_cells <= 40:
            raise InvalidInputError("cells", f"must lie in [1, 40], got {self.n_cells}")
        if not 10 <= self.speed <= 10_000:
            raise InvalidInputError("speed", f"must lie in [10, 10000], got {self.speed:g}")


@dataclass(frozen=True)
class GearDay:
    """What came of it; shares are of SM time.

    Attributes:
        n_slots, n_late: by their times on the GPU.
        n_changes: of gear.
        gear_share: of the time, by gear.
        held: given to one side or the other.
        ran_busy: with slots on it; where two overlap they count twice.
        ai_busy: the engine's.
        best_busy: of both, in the best gears for slots that are known 50 ms ahead.
    """

    n_slots: int
    n_late: int
    n_changes: int
    gear_share: dict[str, float]
    held: float
    ran_busy: float
    ai_busy: float
    best_busy: float


def play(options: GearDayOptions) -> GearDay:
    """Plays the day.

    Raises:
        InvalidInputError: no cost model for the GPU, or it does not cover the gears or the cells.
    """
    site = SiteConfig(gpu=GpuConfig(gears=options.gears, slot_limits=options.slot_limits))
    settings = fast_path_settings(site, options.sm_count)
    ran, ai = np.array(settings.gears), np.array(settings.engine_sms)
    model = CellDemand.of(options.product, options.sm_count)
    times_us = _times_us(options, model, ran.tolist())
    cells = _granted(options)
    chosen, n_late = _fast_path(settings, times_us, cells)
    n, all_us = len(cells), options.sm_count * 1e6 * SLOT_S * len(cells)
    taken_us = _taken_us(times_us, cells)[np.arange(n), chosen]
    names = [f"{r}+{a}" for r, a in zip(ran, ai, strict=True)]
    share = np.bincount(chosen, minlength=len(ran)) / n
    return GearDay(
        n_slots=n,
        n_late=n_late,
        n_changes=int(np.count_nonzero(np.diff(chosen))),
        gear_share=dict(zip(names, share.tolist(), strict=True)),
        held=float((share * (ran + ai)).sum() / options.sm_count),
        ran_busy=float((taken_us * ran[chosen]).sum() / all_us),
        ai_busy=float((share * ai).sum() / options.sm_count),
        best_busy=_best(options, model, cells),
    )


def rows(options: GearDayOptions, day: GearDay) -> list[Row]:
    """As every bench reports."""
    where = f"simulated {options.product}, {options.n_cells} cells, {options.speed:g}x"
    shares = [
        ("held by gears", day.held),
        ("busy, both sides", day.ran_busy + day.ai_busy),
        ("busy, slots", day.ran_busy),
        ("busy, AI", day.ai_busy),
        ("busy at best, slots known 50 ms ahead", day.best_busy),
    ]
    return [
        row("slots", day.n_slots, "slots", where),
        row("late", day.n_late, "slots", where),
        row("changes of gear", day.n_changes, "changes", where),
        *(row(name, 100 * share, "% of SM time", where) for name, share in shares),
        *(row(f"in {gear}", 100 * s, "% of time", where) for gear, s in day.gear_share.items()),
    ]


def _times_us(
    options: GearDayOptions, model: CellDemand, ran_sms: list[int]
) -> dict[str, NDArray[np.float64]]:
    """By channel: (cells granted, gear)."""
    carrier = carrier_of(SiteConfig().ran.sized_as)
    costs = GearCosts(model, carrier, options.n_cells, ran_sms)
    numbers = range(options.n_cells + 1)
    return {
        channel: np.array([costs.us_by_gear(channel, number) for number in numbers])
        for channel in CHANNELS
    }


def _granted(options: GearDayOptions) -> NDArray[np.int64]:
    """(slots,): cells that have their whole carrier granted, each as often as it is loaded."""
    profile, draw = DiurnalProfile(), np.random.default_rng(options.seed)
    n_draws = int(86_400 / options.speed / SLOT_S) // _DRAW_SLOTS
    granted = []
    for number in range(n_draws):
        at_s = number * _DRAW_SLOTS * SLOT_S * options.speed
        loads = [profile.load(cell, at_s) for cell in range(options.n_cells)]
        granted.append((draw.random((_DRAW_SLOTS, options.n_cells)) < loads).sum(axis=1))
    return np.concatenate(granted)


def _is_uplink(n: int) -> NDArray[np.bool_]:
    return np.resize(np.array([channel == "pusch" for channel in _PATTERN]), n)


def _taken_us(
    times_us: dict[str, NDArray[np.float64]], cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(slots, gears); a slot without any cell takes nothing."""
    uplink = _is_uplink(len(cells))[:, None]
    taken = np.where(uplink, times_us["pusch"][cells], times_us["pdsch"][cells])
    return np.where(cells[:, None] > 0, taken, 0.0)


def _fast_path(
    settings: FastPathSettings,
    times_us: dict[str, NDArray[np.float64]],
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int64], int]:
    """The gear of every slot, and how many slots were late."""
    fast = FastPath(settings)
    by_gear = {name: [tuple(each) for each in table.tolist()] for name, table in times_us.items()}
    chosen, n_late = np.empty(len(cells), np.int64), 0
    for number, n_cells in enumerate(cells.tolist()):
        channel, at_s = _PATTERN[number % len(_PATTERN)], number * SLOT_S
        budget_us, us = BUDGET_US[channel], by_gear[channel][n_cells]
        gear = fast.expect([SlotExpected(channel, budget_us, us)], at_s).gear
        is_late = us[gear] > budget_us
        chosen[number], n_late = gear, n_late + is_late
        fast.see(SlotSeen(at_s, channel, us[gear], budget_us, gear, is_late, us))
    return chosen, n_late


def _best(options: GearDayOptions, model: CellDemand, cells: NDArray[np.int64]) -> float:
    """Of each window the gear, of all that there are, that keeps most of the SM time busy while no
    slot takes more than its part of the budget."""
    ran = np.array([sms for sms in model.offered_sms() if sms < options.sm_count])
    taken_us = _taken_us(_times_us(options, model, ran.tolist()), cells)
    uplink = _is_uplink(len(cells))[:, None]
    part = taken_us / np.where(uplink, BUDGET_US["pusch"], BUDGET_US["pdsch"])
    n = len(cells) // _WINDOW_SLOTS * _WINDOW_SLOTS
    shape = (-1, _WINDOW_SLOTS, len(ran))
    longest = part[:n].reshape(shape).max(axis=1)
    busy_us = taken_us[:n].reshape(shape).sum(axis=1) * ran
    busy_us += (options.sm_count - ran) * 1e6 * SLOT_S * _WINDOW_SLOTS
    fits = longest <= _FORESIGHT_PART
    fits[:, -1] = True
    best_us = np.where(fits, busy_us, 0.0).max(axis=1)
    return float(best_us.sum() / (options.sm_count * 1e6 * SLOT_S * n))
