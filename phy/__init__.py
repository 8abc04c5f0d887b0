"""5G NR Layer 1: arrays in, arrays out.

Grids are complex64[antenna or port, symbol, subcarrier]; LLRs are log P(0)/P(1), positive means
bit 0; bits are uint8, most significant first. NumPy arrays give NumPy arrays, CuPy arrays CuPy's.
"""

from phy.pdsch.config import PdschConfig
from phy.pdsch.receiver import PdschReceiver, PdschResult
from phy.pdsch.transmitter import PdschTransmitter
from phy.pusch.config import PuschConfig
from phy.pusch.receiver import PuschReceiver, PuschResult, PuschSlotReceiver
from phy.pusch.transmitter import PuschTransmitter
from phy.receiver.chain import ReceiverOptions
from phy.receiver.delay_profile import DelayWindow
from phy.warm import warm_up

__all__ = [
    "DelayWindow",
    "PdschConfig",
    "PdschReceiver",
    "PdschResult",
    "PdschTransmitter",
    "PuschConfig",
    "PuschReceiver",
    "PuschResult",
    "PuschSlotReceiver",
    "PuschTransmitter",
    "ReceiverOptions",
    "warm_up",
]
