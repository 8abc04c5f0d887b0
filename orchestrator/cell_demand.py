"""SMs that cells need on a GPU, from their configuration and load, by phy's measured cost model.

A TDD period DDDSU of 2.5 ms at 30 kHz holds four downlink slots and one uplink slot. The cells
need the fewest SMs on which an uplink slot and a downlink slot each keep their budget, and all
five together leave the part some idle time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from airan.core.errors import CapacityError, InvalidInputError
from phy.gpu.cost import SM_STEP, GpuCostModel, shipped
from phy.gpu.cost_features import SlotLoad

MEASURED = {"H100-SXM5-80GB": "NVIDIA H100 80GB HBM3"}
"""Products whose cost model comes with phy, by the name it was measured under."""
SAME_CHIP = dict.fromkeys(("GH200-96GB", "GH200-144GB", "H200-141GB"), "H100-SXM5-80GB")
"""Products with the same chip and as many SMs: their slots are assumed to take as long."""

PERIOD_US = 2500.0
DOWNLINK_SLOTS = 4
PUSCH_BUDGET_US = 1250.0
"""cuPHY's published budget of a slot."""
PDSCH_BUDGET_US = 375.0
"""Likewise."""
BUSY_LIMIT = 0.9
"""Of the period that the slots may fill: assumed."""
_MANY = 20
_LOAD_STEPS = 16


@dataclass(frozen=True)
class CellConfig:
    """What of a cell's configuration its cost depends on."""

    n_prb: int = 273
    n_layers: int = 4
    n_rx: int = 4
    uplink_mcs: int = 27
    """Of table 1 (64QAM)."""
    downlink_mcs: int = 27
    """Of table 2 (256QAM)."""


class CellLoad(NamedTuple):
    """One cell now: `load` is the share of its PRBs in use, in [0, 1]."""

    config: CellConfig
    load: float


class _Kind(NamedTuple):
    """Cells that cost the same."""

    config: CellConfig
    n_prb: int


class _Cost(NamedTuple):
    each_us: float
    """What one more such cell adds to a slot of many."""
    alone_us: float


@dataclass(frozen=True)
class CellDemand:
    """What cells need on one product of GPU."""

    product: str
    sm_count: int
    model: GpuCostModel
    assumed: bool
    """The product was not measured itself."""
    n_iterations: int = 5
    """Of the LDPC decoder, expected."""
    margin: float = 0.0
    """Added to every time, as a share: for what the model misses."""
    _cost_us: dict[tuple[str, _Kind, int], _Cost] = field(
        default_factory=dict, compare=False, repr=False
    )

    @staticmethod
    def of(product: str, sm_count: int) -> CellDemand:
        """By the model that was measured on this product, or on one with the same chip.

        Raises:
            InvalidInputError: no such model; the message lists the products there are.
        """
        measured = SAME_CHIP.get(product, product)
        if measured not in MEASURED:
            known = ", ".join((*MEASURED, *SAME_CHIP))
            raise InvalidInputError(
                "product", f"no cost model fits {product!r}", remedy=f"there are those of {known}"
            )
        model = shipped(MEASURED[measured])
        margin = max(channel.error.p95 for channel in model.channels.values())
        return CellDemand(product, sm_count, model, measured != product, margin=margin)

    def sms(self, cells: Iterable[CellLoad]) -> int:
        """The fewest SMs the cells need together; 0 for none or only idle ones.

        Raises:
            InvalidInputError: a load outside [0, 1], or a configuration that was not measured.
            CapacityError: the whole GPU is not enough.
        """
        kinds = Counter(kind for cell in cells if (kind := self._kind(cell)) is not None)
        if not kinds:
            return 0
        for n_sms in self.offered_sms():
            if self._fits(kinds, n_sms):
                return n_sms
        raise CapacityError(
            f"{sum(kinds.values())} cells need more than the {self.sm_count} SMs of {self.product}",
            remedy="place some of them on another GPU",
        )

    def times_us(self, cells: Iterable[CellLoad], n_sms: int) -> tuple[float, float]:
        """Time of an uplink and of a downlink slot of all cells on that many SMs."""
        kinds = Counter(kind for cell in cells if (kind := self._kind(cell)) is not None)
        return self._us("pusch", kinds, n_sms), self._us("pdsch", kinds, n_sms)

    def _kind(self, cell: CellLoad) -> _Kind | None:
        if not 0.0 <= cell.load <= 1.0:
            raise InvalidInputError("load", f"must lie in [0, 1], got {cell.load}")
        if cell.load == 0.0:
            return None
        # In steps, upwards, and no fewer PRBs than were measured: a cell never looks cheaper.
        steps = -(-cell.load * _LOAD_STEPS // 1)
        least = max(channel.ranges["n_prb"][0] for channel in self.model.channels.values())
        n_prb = max(round(cell.config.n_prb * steps / _LOAD_STEPS), min(least, cell.config.n_prb))
        return _Kind(cell.config, n_prb)

    def offered_sms(self) -> Iterable[int]:
        """The parts of the GPU that were measured, ascending; all of it is the last one."""
        least = max(channel.ranges["n_sms"][0] for channel in self.model.channels.values())
        yield from range(-(-least // SM_STEP) * SM_STEP, self.sm_count, SM_STEP)
        yield self.sm_count

    def _fits(self, kinds: Counter[_Kind], n_sms: int) -> bool:
        uplink_us = self._us("pusch", kinds, n_sms)
        downlink_us = self._us("pdsch", kinds, n_sms)
        busy_us = uplink_us + DOWNLINK_SLOTS * downlink_us
        return (
            uplink_us <= PUSCH_BUDGET_US
            and downlink_us <= PDSCH_BUDGET_US
            and busy_us <= BUSY_LIMIT * PERIOD_US
        )

    def _us(self, channel: str, kinds: Counter[_Kind], n_sms: int) -> float:
        """A slot of unlike cells: what launching costs and each cell adds to a slot of many, at
        least what the dearest of them takes alone on a GPU it cannot fill."""
        costs = [(self._cost(channel, kind, n_sms), count) for kind, count in kinds.items()]
        launch_us = self.model.channels[channel].us_of["launch"]
        together_us = launch_us + sum(cost.each_us * count for cost, count in costs)
        return (1.0 + self.margin) * max(together_us, *(cost.alone_us for cost, _ in costs))

    def _cost(self, channel: str, kind: _Kind, n_sms: int) -> _Cost:
        key = (channel, kind, n_sms)
        if key not in self._cost_us:
            device = self.model.device
            launch_us = self.model.channels[channel].us_of["launch"]
            many_us = self.model.slot_us(self._slot(channel, kind, n_sms, _MANY), device)
            alone_us = self.model.slot_us(self._slot(channel, kind, n_sms, 1), device)
            self._cost_us[key] = _Cost((many_us - launch_us) / _MANY, alone_us)
        return self._cost_us[key]

    def _slot(self, channel: str, kind: _Kind, n_sms: int, n_cells: int) -> SlotLoad:
        uplink = channel == "pusch"
        config = kind.config
        return SlotLoad(
            channel=channel,
            n_cells=n_cells,
            n_prb=kind.n_prb,
            n_layers=config.n_layers,
            mcs_index=config.uplink_mcs if uplink else config.downlink_mcs,
            mcs_table=1 if uplink else 2,
            n_rx=config.n_rx if uplink else 0,
            n_iterations=self.n_iterations if uplink else 0,
            n_sms=n_sms,
        )
