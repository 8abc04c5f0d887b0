"""The simulated radio of the cells on the GPU: what each slot receives and sends.

Samples of a few simulated cells lie in pinned memory for as many cells as there are; a cell that
is loaded to a third has its whole carrier granted in a third of the slots. So the number of grants,
and what they cost, differs from slot to slot, and no sample has to be made or moved while slots
run. The first cells stand for those that have a grant: tables of slots that were seen before are
kept, as grants of a real scheduler repeat, and every number of cells is seen at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airan.core.errors import InvalidInputError
from airan.core.ran_config import CellSizeConfig
from phy.gpu.bench_slots import simulated
from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink import DownlinkLimits, downlink_limits
from phy.gpu.downlink_group import Assignment
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from phy.gpu.front_end_layout import pack_grid
from phy.gpu.outcome import Grant
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink import CellGrid, UplinkLimits, UplinkUe, uplink_limits
from phy.pdsch.config import PdschConfig
from phy.pusch.config import PuschConfig

SLOTS_PER_FRAME = 20
SLOT_NUMBER = 4
"""In its frame of every slot: the samples were made for it."""
SNR_DB = 35.0
N_ANTENNAS = 4
"""Of a cell's downlink grid."""


@dataclass(frozen=True)
class Slot:
    """What is granted in one slot.

    Attributes:
        channel: "pusch" or "pdsch".
        number: its index for the cell group.
        grants, assignments: one of them is empty.
    """

    channel: str
    number: int
    grants: Sequence[Grant] = ()
    assignments: Sequence[Assignment] = ()

    @property
    def n_cells(self) -> int:
        """Cells that have something in it."""
        return len(self.grants) + len(self.assignments)


class SimulatedRadio:
    """All cells of one carrier, one UE over all of it in each direction."""

    def __init__(
        self, size: CellSizeConfig, n_cells: int, seed: int = 1, snr_db: float = SNR_DB
    ) -> None:
        pusch = PuschConfig(
            n_prb=size.n_prb,
            n_layers=size.n_layers,
            n_rx=size.n_rx,
            mcs_index=size.uplink_mcs,
            mcs_table=1,
            slot_number=SLOT_NUMBER,
        )
        pdsch = PdschConfig(
            n_prb=size.n_prb,
            n_layers=size.n_layers,
            mcs_index=size.downlink_mcs,
            mcs_table=2,
            slot_number=SLOT_NUMBER,
        )
        self.n_cells = n_cells
        self.loads: Sequence[float] = (0.0,) * n_cells
        """Of the cells, in [0, 1]; set anew as they change."""
        self._ues = [UplinkUe(cell, pusch) for cell in range(n_cells)]
        self._grants = [Grant(ue) for ue in self._ues]
        self._receivers = [DownlinkUe(cell, pdsch) for cell in range(n_cells)]
        self._assignments = [Assignment(ue, None) for ue in self._receivers]
        self._samples = [grid for _, grid in simulated(pusch, snr_db, min(n_cells, 4), seed)]
        # As the GPU takes them: slots wait while its memory is filled after a fault.
        self._packed = [pack_grid(grid) for grid in self._samples]
        self._rng = np.random.default_rng(seed)
        self._count = {"pusch": 0, "pdsch": 0}
        self._is_first = True

    def limits(self) -> tuple[UplinkLimits, DownlinkLimits]:
        """The most that a slot may hold. Grids stay on the GPU, where a radio would fetch them."""
        config = self._ues[0].config
        uplink_grids = [CellGrid(config.n_rx, config.n_prb)] * self.n_cells
        downlink_grids = [SendGrid(N_ANTENNAS, config.n_prb)] * self.n_cells
        return (
            uplink_limits(uplink_grids, [self._ues], n_soft_buffers=2 * self.n_cells),
            downlink_limits(downlink_grids, [self._receivers], is_copied_out=False),
        )

    def fill(self, group: CellGroup) -> None:
        """Puts samples and transport blocks into all sides, and runs a full slot on each; for the
        start, and for when the GPU has been set up again. The slots' outcomes are discarded. The
        first time a slot of each number of cells is run, too: its tables are kept here.

        Raises:
            InvalidInputError: the group only receives.
        """
        downlink = group.downlink
        if downlink is None:
            raise InvalidInputError("group", "only receives")
        for n_side in range(N_SIDES):
            for cell, ue in enumerate(self._ues):
                which = cell % len(self._samples)
                group.uplink.samples(cell)[...] = self._packed[which]
                if self._is_first and n_side == 0:
                    group.uplink.learn(ue, self._samples[which], SLOT_NUMBER)
            group.uplink.submit(self._number("pusch"), self._grants)
            for room in downlink.rooms(self._receivers):
                room[...] = self._rng.integers(0, 256, room.size, dtype=np.uint8)
            downlink.prepare(self._number("pdsch"), self._assignments)
            downlink.start()
            group.collect(wait=True)
        if not self._is_first:
            return
        self._is_first = False
        for n_cells in range(self.n_cells):
            group.uplink.submit(self._number("pusch"), self._grants[:n_cells])
            downlink.prepare(self._number("pdsch"), self._assignments[:n_cells])
            downlink.start()
            group.collect(wait=True)

    def next(self, kind: str) -> Slot:
        """Draws the next slot; `kind` is the TDD pattern's letter."""
        drawn = int(np.count_nonzero(self._rng.random(self.n_cells) < np.asarray(self.loads)))
        if kind == "U":
            return Slot("pusch", self._number("pusch"), grants=self._grants[:drawn])
        return Slot("pdsch", self._number("pdsch"), assignments=self._assignments[:drawn])

    def _number(self, channel: str) -> int:
        self._count[channel] += 1
        return SLOTS_PER_FRAME * self._count[channel] + SLOT_NUMBER
