"""The UE's side of PDSCH: a received resource grid back to the transport block."""

from __future__ import annotations

from typing import TypeAlias

from phy.pdsch.config import PdschConfig
from phy.receiver.chain import GroupReceiver, ReceiverOptions
from phy.receiver.single import SingleReceiver
from phy.shared_channel.result import SharedChannelResult

PdschResult: TypeAlias = SharedChannelResult
"""What came out of one slot."""


class PdschReceiver(SingleReceiver):
    """Receives what a PdschTransmitter of the same `config` sent through a channel."""

    def __init__(self, config: PdschConfig, options: ReceiverOptions | None = None) -> None:
        """`config.n_rx` are the UE's antennas; its precoding weights need not be known.

        Raises:
            InvalidInputError: an option that the configuration does not allow.
        """
        super().__init__(config, GroupReceiver([config], options or ReceiverOptions()))
        self.config = config
