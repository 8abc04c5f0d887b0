"""The site's cells: how loaded each is, what the live one sends, what all of them need.

The one published figure here is the scale: NVIDIA's cuPHY carries 20 peak 4T4R cells of 100 MHz
on one GH200. The shape, cost against load, is measured on this machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from airan.core.ran_config import RanConfig
from phy import PuschConfig
from phy.cost import CostModel
from sims.ran_load import DiurnalProfile, LoadProfile, TraceProfile

PEAK_CELLS_PER_GPU = 20
# A scheduler leaves slots empty rather than filling every slot with a sliver of PRBs.
MIN_ALLOCATION = 0.5
N_ALLOCATIONS = 16


def pusch_config(ran: RanConfig) -> PuschConfig:
    """The live cell's full allocation.

    Raises:
        InvalidInputError: the fields contradict each other; names the field.
    """
    return PuschConfig(
        n_prb=ran.n_prb,
        mcs_table=ran.mcs_table,
        mcs_index=ran.mcs_index,
        scs_khz=ran.scs_khz,
        n_rx=ran.n_rx,
    )


def load_profile(ran: RanConfig) -> LoadProfile:
    """The load the site plays: the configured trace, or the generated day.

    Raises:
        ConfigError: the trace is not valid.
    """
    return DiurnalProfile() if ran.trace is None else TraceProfile.from_csv(ran.trace)


@dataclass(frozen=True)
class Allocations:
    """Which PRB allocations the live cell's scheduler uses, and how often at a given load."""

    n_prb: int
    """PRBs of the carrier."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every allocation in use, ascending; few, so that each is warmed up before the start."""
        step = max(1.0, self.n_prb / N_ALLOCATIONS)
        found = {self.n_prb}
        size = max(1.0, self.n_prb * MIN_ALLOCATION)
        while size < self.n_prb:
            found.add(round(size))
            size += step
        return tuple(sorted(found))

    def at(self, load: float) -> tuple[int, float]:
        """(PRBs, part of the uplink slots that carry them); their product is `load` carriers."""
        wanted = min(max(load, 0.0), 1.0) * self.n_prb
        size = next((size for size in self.sizes if size >= wanted), self.n_prb)
        return size, wanted / size

    def draw(self, load: float, rng: random.Random) -> int:
        """PRBs of one uplink slot; 0 for an empty one."""
        size, part = self.at(load)
        return size if rng.random() < part else 0


@dataclass(frozen=True)
class CellGroup:
    """All cells of the site: number 0 is live, the load of the others is simulated."""

    n_cells: int
    n_gpus: int
    allocations: Allocations
    profile: LoadProfile

    def loads(self, time_of_day_s: float) -> tuple[float, ...]:
        """The load of every cell, in [0, 1]."""
        return tuple(self.profile.load(cell, time_of_day_s) for cell in range(self.n_cells))

    def demand_share(self, loads: tuple[float, ...], cost: CostModel) -> float:
        """Share of the GPU pool that the cells need: measured relative cost, published scale."""
        peaks = sum(self._relative_cost(load, cost) for load in loads)
        return min(1.0, peaks / (PEAK_CELLS_PER_GPU * self.n_gpus))

    def _relative_cost(self, load: float, cost: CostModel) -> float:
        size, part = self.allocations.at(load)
        return part * cost.relative_cost(size)
