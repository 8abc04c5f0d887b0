"""The UE's side of PUSCH: a transport block onto the resource grid."""

from __future__ import annotations

from phy.array import Array
from phy.pusch.config import PuschConfig
from phy.shared_channel.transmitter import SharedChannelTransmitter


class PuschTransmitter:
    """Transmits transport blocks as `config` says."""

    def __init__(self, config: PuschConfig) -> None:
        self.config = config
        self._transmit = SharedChannelTransmitter(
            config, config.precoder, config.transform_precoding
        )

    def __call__(self, tb: Array, slot_number: int | None = None) -> Array:
        """Codes, scrambles, modulates, precodes and maps one transport block.

        Args:
            tb: uint8[tb_size_bits].
            slot_number: slot within the frame; None: the configured one.

        Returns:
            complex64[port, 14, 12 * carrier PRBs], a port for each layer without a codebook; data
            of a layer has mean power 1 before precoding.

        Raises:
            InvalidInputError: `tb` has the wrong shape, dtype or values, or the slot number is out
                of range.

        Spec: TS 38.212 6.2; TS 38.211 6.3.1.1 to 6.3.1.7, 6.4.1.1.3
        """
        return self._transmit(tb, slot_number)
