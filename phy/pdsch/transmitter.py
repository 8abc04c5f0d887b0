"""The base station's side of PDSCH: a transport block onto the resource grid."""

from __future__ import annotations

from phy.array import Array
from phy.pdsch.config import PdschConfig
from phy.shared_channel.transmitter import SharedChannelTransmitter


class PdschTransmitter:
    """Transmits transport blocks as `config` says."""

    def __init__(self, config: PdschConfig) -> None:
        self.config = config
        self._transmit = SharedChannelTransmitter(config, config.precoder)

    def __call__(self, tb: Array, slot_number: int | None = None) -> Array:
        """Codes, scrambles, modulates, precodes and maps one transport block.

        Args:
            tb: uint8[tb_size_bits].
            slot_number: slot within the frame; None: the configured one.

        Returns:
            complex64[port, 14, 12 * carrier PRBs], a port for each layer without weights; data of
            a layer has mean power 1 before precoding.

        Raises:
            InvalidInputError: `tb` has the wrong shape, dtype or values, or the slot number is out
                of range.

        Spec: TS 38.212 7.2; TS 38.211 7.3.1.1 to 7.3.1.5, 7.4.1.1
        """
        return self._transmit(tb, slot_number)
