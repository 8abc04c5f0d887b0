"""What UEs cost a cell group, by the GPU's cost model: the measure by which UEs are shed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from phy.gpu.cost import GpuCostModel
from phy.gpu.cost_features import SlotLoad
from phy.gpu.uplink import UplinkUe

_FEW, _MANY = 10, 20


@dataclass(frozen=True)
class UplinkCost:
    """The cost of a slot as that of an empty one and of each UE.

    A UE costs what one more of its kind adds to a slot of many: a slot of one UE leaves much of the
    GPU idle, and would make each look dearer than it is.

    Attributes:
        model: measured on `device`.
        device: the GPU's name.
        n_sms: multiprocessors that the group has.
        n_iterations: of the decoder, expected.
    """

    model: GpuCostModel
    device: str
    n_sms: int
    n_iterations: int = 3
    _known: dict[UplinkUe, float] = field(default_factory=dict, compare=False, repr=False)

    def base_us(self) -> float:
        """Of a slot without UEs."""
        return self.model.channels["pusch"].us_of["launch"]

    def ue_us(self, ue: UplinkUe) -> float:
        """What one UE adds.

        Raises:
            InvalidInputError: its kind was not measured, or another device was.
        """
        if ue not in self._known:
            config = ue.config
            load = SlotLoad(
                channel="pusch",
                n_cells=_FEW,
                n_prb=config.n_prb,
                n_layers=config.n_layers,
                mcs_index=config.mcs_index,
                mcs_table=config.mcs_table,
                n_rx=config.n_rx,
                n_iterations=self.n_iterations,
                n_sms=self.n_sms,
            )
            few = self.model.slot_us(load, self.device)
            many = self.model.slot_us(replace(load, n_cells=_MANY), self.device)
            self._known[ue] = (many - few) / (_MANY - _FEW)
        return self._known[ue]
