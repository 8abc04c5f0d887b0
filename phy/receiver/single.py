"""A receiver of one UE on either shared channel."""

from __future__ import annotations

from phy.array import Array
from phy.checks import check_integer
from phy.receiver.chain import GroupReceiver
from phy.shared_channel.config import SharedChannelConfig
from phy.shared_channel.result import SharedChannelResult


class SingleReceiver:
    """Receives the slots of one UE."""

    def __init__(self, config: SharedChannelConfig, receive: GroupReceiver) -> None:
        """`receive` is the receiver of a group of one, `config`'s UE."""
        self._receive = receive
        self._slot_number = config.slot_number
        self._last_slot = config.slots_per_frame - 1

    def __call__(
        self,
        grid: Array,
        noise_var: float | None = None,
        *,
        slot_number: int | None = None,
        soft_buffer: Array | None = None,
    ) -> SharedChannelResult:
        """Receives one slot.

        Args:
            grid: complex64[rx, 14, 12 * carrier PRBs]. NaN or infinite samples in the allocation
                fail the slot, no more.
            noise_var: variance of the complex noise on a resource element; None: estimated.
            slot_number: slot within the frame; None: the configured one.
            soft_buffer: float32[cb, N] of the block's earlier transmissions.

        Raises:
            InvalidInputError: wrong shape or dtype, a noise variance that is negative or not
                finite, or a slot number out of range.

        Spec: TS 38.211 6.3.1, 6.4.1.1 (PUSCH), 7.3.1, 7.4.1.1 (PDSCH); TS 38.212 6.2, 7.2
        """
        slot_number = self._slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, self._last_slot)
        [result] = self._receive(grid, noise_var, slot_number, [soft_buffer])
        return result
