"""A group of cells on one part of the GPU: both directions, in the order of a TDD pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airan.core.errors import InvalidInputError
from phy.gpu.downlink_group import Assignment, DownlinkGroup
from phy.gpu.outcome import Grant, SentSlot, SlotOutcome
from phy.gpu.uplink_group import UplinkGroup
from phy.gpu.worker_pool import GpuWorker
from phy.runtime.timing import SlotTiming


@dataclass(frozen=True)
class Collected:
    """What has ended.

    Attributes:
        received: uplink slots.
        sent: downlink slots.
    """

    received: list[SlotOutcome]
    sent: list[SentSlot]


class CellGroup:
    """Both directions of a group of cells.

    Attributes:
        uplink: the receiving half.
        downlink: the sending half; None: the group only receives.
        timing: slots and the TDD pattern, DDDSU by default.
        worker: the processes that use the GPU; None: this one does.
    """

    def __init__(
        self,
        uplink: UplinkGroup,
        downlink: DownlinkGroup | None = None,
        timing: SlotTiming | None = None,
        on_close: Callable[[], None] = lambda: None,
        worker: GpuWorker | None = None,
    ) -> None:
        """`on_close` is called when it has given the GPU back."""
        self.worker = worker
        self._on_close = on_close
        self.uplink = uplink
        self.downlink = downlink
        self.timing = timing or SlotTiming()

    def kind(self, slot: int) -> str:
        """Returns "D", "S" or "U"."""
        pattern = self.timing.tdd_pattern
        return pattern[slot % len(pattern)]

    def prepare(
        self, slot: int, grants: Sequence[Grant] = (), assignments: Sequence[Assignment] = ()
    ) -> None:
        """Writes the tables of a slot: of what is sent in it, or received. A special slot may have
        both.

        Raises:
            InvalidInputError: the pattern has the slot for the other direction, or as the halves'
                own `prepare`.
        """
        kind = self.kind(slot)
        if grants and kind == "D":
            raise InvalidInputError("grants", f"slot {slot} is a downlink slot")
        if assignments and kind == "U":
            raise InvalidInputError("assignments", f"slot {slot} is an uplink slot")
        if assignments and self.downlink is None:
            raise InvalidInputError("assignments", "the group only receives")
        # The downlink first: refusing it leaves nothing behind in HARQ's books.
        if assignments and self.downlink is not None:
            self.downlink.prepare(slot, assignments)
        if grants:
            self.uplink.prepare(slot, grants)

    def shift(self, gear: int) -> None:
        """Has the slots that are started from now on run in that gear (see `GroupOptions`); those
        under way end in theirs."""
        self.uplink.shift(gear)
        if self.downlink is not None:
            self.downlink.shift(gear)

    @property
    def n_under_way(self) -> int:
        """Slots that were started and not collected."""
        sending = 0 if self.downlink is None else self.downlink.n_under_way
        return self.uplink.n_under_way + sending

    def collect(self, *, wait: bool = False) -> Collected:
        """Returns the slots that have ended.

        Args:
            wait: for all slots under way.
        """
        sent = [] if self.downlink is None else self.downlink.collect(wait=wait)
        return Collected(self.uplink.collect(wait=wait), sent)

    def is_ready(self) -> bool:
        """Tells whether both halves have a GPU; after a fault, asking goes on setting it up."""
        halves = [self.uplink.is_ready()]
        if self.downlink is not None:
            halves.append(self.downlink.is_ready())
        return all(halves)

    def close(self) -> None:
        """Waits for what is under way and gives the GPU back."""
        self.collect(wait=True)
        self.uplink.close()
        if self.downlink is not None:
            self.downlink.close()
        self._on_close()
