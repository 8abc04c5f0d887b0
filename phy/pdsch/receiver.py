"""The UE's side of PDSCH: a received resource grid back to the transport block."""

from __future__ import annotations

from phy.array import Array
from phy.checks import check_integer
from phy.pdsch.config import PdschConfig
from phy.receiver.chain import GroupReceiver, ReceiverOptions
from phy.shared_channel.result import SharedChannelResult


class PdschResult(SharedChannelResult):
    """What came out of one slot; see SharedChannelResult."""


class PdschReceiver:
    """Receives what a PdschTransmitter of the same `config` sent through a channel."""

    def __init__(self, config: PdschConfig, options: ReceiverOptions | None = None) -> None:
        """`config.n_rx` are the UE's antennas; its precoding weights need not be known.

        Raises:
            InvalidInputError: an option that the configuration does not allow.
        """
        self.config = config
        self._receive = GroupReceiver([config], options or ReceiverOptions())

    def __call__(
        self,
        grid: Array,
        noise_var: float | None = None,
        *,
        slot_number: int | None = None,
        soft_buffer: Array | None = None,
    ) -> PdschResult:
        """Receives one slot.

        Args:
            grid: complex64[rx, 14, 12 * carrier PRBs]. NaN or infinite samples in the allocation
                fail the slot, no more.
            noise_var: variance of the complex noise on a resource element; None: estimated.
            slot_number: slot within the frame; None: the configured one.
            soft_buffer: float32[cb, N] of the block's earlier transmissions.

        Raises:
            InvalidInputError: wrong shape or dtype, a negative noise variance or a slot number out
                of range.

        Spec: TS 38.211 7.3.1, 7.4.1.1; TS 38.212 7.2
        """
        slot_number = self.config.slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, self.config.slots_per_frame - 1)
        [result] = self._receive(grid, noise_var, slot_number, [soft_buffer])
        return PdschResult(**vars(result))
