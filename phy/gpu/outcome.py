"""What became of a slot on the GPU and of the transport blocks in it, and the counts of it all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from phy.gpu.faults import GpuFaultError
from phy.gpu.uplink import UplinkUe


class UeStatus(StrEnum):
    """How a transport block fared."""

    ON_TIME = "on_time"
    LATE = "late"
    """Decoded or not, its deadline had passed."""
    DROPPED = "dropped"
    """Too many slots were waiting: never begun."""
    SHED = "shed"
    """Left out so that the others of the slot are in time."""
    FAILED = "failed"
    """The GPU failed."""


@dataclass(frozen=True)
class Grant:
    """An uplink grant: the transmission that is to be received.

    Attributes:
        ue: the UE's allocation.
        process_id: HARQ process, 0 to 31.
        new_data: the transport block is new; otherwise it is sent again.
        priority: under overload, UEs of higher priority are kept longer.
    """

    ue: UplinkUe
    process_id: int = 0
    new_data: bool = True
    priority: int = 0


@dataclass(frozen=True)
class TbOutcome:
    """One transport block.

    Attributes:
        grant: what it was received for.
        status: how it fared.
        crc_ok: it was decoded.
        tb: uint8[ceil(A / 8)], the transport block, the first bit highest, if it was decoded in
            time: a late one is never passed on. Valid until two more slots have been started.
        transmission: how many transmissions of the block there were before.
        sinr_db: after the equaliser; NaN unless received.
        error: what failed.
    """

    grant: Grant
    status: UeStatus
    crc_ok: bool = False
    tb: npt.NDArray[np.uint8] | None = None
    transmission: int = 0
    sinr_db: float = math.nan
    error: str | None = None


@dataclass(frozen=True)
class SlotOutcome:
    """One uplink slot of all cells.

    Attributes:
        slot: its index.
        tbs: in the order of the grants.
        latency_us: from the arrival of its last sample to the results; NaN unless received.
        kernels_us: of that, the GPU's kernels.
        with_copies_us: the kernels with the copies in and out.
        iterations: of the decoder, on average over all code blocks.
    """

    slot: int
    tbs: tuple[TbOutcome, ...]
    latency_us: float = math.nan
    kernels_us: float = math.nan
    with_copies_us: float = math.nan
    iterations: float = math.nan


@dataclass(frozen=True)
class SentSlot:
    """One downlink slot of all cells.

    Attributes:
        slot: its index.
        status: on time, late, dropped or failed.
        grids: float16[cell's samples, 2] of all cells, if it is on time (a late slot is never sent)
            and grids are copied to the host. Valid until two more slots have been started.
        latency_us: from the order to the grids on the host; NaN unless they were made.
        kernels_us, with_copies_us: of that, on the GPU.
        error: what failed.
    """

    slot: int
    status: UeStatus
    grids: npt.NDArray[np.float16] | None = None
    latency_us: float = math.nan
    kernels_us: float = math.nan
    with_copies_us: float = math.nan
    error: str | None = None


@dataclass(frozen=True)
class Alarm:
    """Something that the operator, or the fast path, must know at once.

    Attributes:
        slot: during which it happened.
        latency_us: of a slot that came too close to its deadline; NaN otherwise.
        fault: of the GPU.
    """

    slot: int
    latency_us: float
    fault: GpuFaultError | None = None


@dataclass
class GroupCounters:
    """Counts since the cell group's start; they only grow.

    Attributes:
        slots: uplink slots by how they fared: on_time, late, dropped, failed.
        tbs: transport blocks by status.
        crc_failed: transport blocks received in time and not decoded.
        good_bits: bits of transport blocks passed on.
        lost_soft_values: HARQ processes whose soft values a restart cost.
    """

    slots: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("on_time", "late", "dropped", "failed"), 0)
    )
    tbs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UeStatus, 0))
    crc_failed: int = 0
    good_bits: int = 0
    lost_soft_values: int = 0

    def add(self, outcome: SlotOutcome, status: str) -> None:
        """Counts one slot."""
        self.slots[status] += 1
        for tb in outcome.tbs:
            self.tbs[tb.status] += 1
            if tb.status is UeStatus.ON_TIME and not tb.crc_ok:
                self.crc_failed += 1
            if tb.tb is not None:
                self.good_bits += tb.grant.ue.config.tb_size_bits


def ended_alike(
    slot: int, grants: Sequence[Grant], status: UeStatus, error: str | None = None
) -> SlotOutcome:
    """Returns the outcome of a slot of which nothing was received."""
    return SlotOutcome(slot, tuple(TbOutcome(grant, status, error=error) for grant in grants))
