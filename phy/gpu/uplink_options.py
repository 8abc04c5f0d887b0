"""How the uplink of a cell group runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from phy.checks import check_integer, check_range
from phy.gpu.decode_limits import DecoderEffort
from phy.gpu.uplink import UplinkUe

PUSCH_BUDGET_US = 1250.0
"""From the arrival of a slot's last sample to its transport blocks."""


class SlotCost(Protocol):
    """What UEs cost, by a measured model."""

    def base_us(self) -> float:
        """Of a slot without UEs."""
        ...

    def ue_us(self, ue: UplinkUe) -> float:
        """What one UE adds."""
        ...


@dataclass(frozen=True)
class UplinkOptions:
    """How the uplink runs.

    Attributes:
        budget_us: from a slot's arrival to its transport blocks.
        effort: of the decoder.
        slots_per_frame: of the numerology: 20 at 30 kHz.
        cost: what UEs cost; None: nothing is shed.
        alarm_fraction: a latency above this part of the budget raises the alarm, and so does a
            fault of the GPU.
    """

    budget_us: float = PUSCH_BUDGET_US
    effort: DecoderEffort = field(default_factory=DecoderEffort)
    slots_per_frame: int = 20
    cost: SlotCost | None = None
    alarm_fraction: float = 0.8

    def __post_init__(self) -> None:
        check_range("budget_us", self.budget_us, 1.0, 1e9)
        check_integer("n_iterations", self.effort.n_iterations, 1, 1000)
        check_integer("slots_per_frame", self.slots_per_frame, 10, 160)
        check_range("alarm_fraction", self.alarm_fraction, 0.0, 1.0)
