"""What slots of cells that are all alike take in each gear, by the GPU's measured cost model. Pure.

The fast path's feed-forward: what was granted for the next slots says what they will take.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cell_demand import CellConfig, CellDemand, CellLoad

CHANNELS = ("pusch", "pdsch")


class GearCosts:
    """By channel and number of cells that have a whole carrier in the slot. A slot without any is
    taken for one with one: it cannot be cheaper by more than that."""

    def __init__(
        self, model: CellDemand, config: CellConfig, n_cells: int, gears: Sequence[int]
    ) -> None:
        """Reckons everything at once.

        Raises:
            InvalidInputError: the carrier, or a gear's SMs, were not measured.
        """
        self._us: dict[str, list[tuple[float, ...]]] = {channel: [] for channel in CHANNELS}
        for number in range(n_cells + 1):
            cells = [CellLoad(config, 1.0)] * max(1, number)
            times = [model.times_us(cells, sms) for sms in gears]
            for place, channel in enumerate(CHANNELS):
                self._us[channel].append(tuple(each[place] for each in times))

    def us_by_gear(self, channel: str, n_cells: int) -> tuple[float, ...]:
        """What a slot with that many cells takes in each gear."""
        return self._us[channel][n_cells]
