"""The fixed pieces of work that `airan bench phy` measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy import PdschConfig, PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.nr import ldpc
from phy.nr.segmentation import segment

WHOLE_CARRIER = PuschConfig(n_prb=273, n_layers=4, mcs_table=1, mcs_index=27, n_rx=4)
"""The uplink slot: 100 MHz at 30 kHz, four layers to four antennas, 64QAM at rate 0.89."""

WHOLE_CARRIER_DOWN = PdschConfig(n_prb=273, n_layers=4, mcs_table=2, mcs_index=27, n_rx=4)
"""The downlink slot: 256QAM at rate 0.93."""

# Fading on every path, and at this SNR the decoder has some work left but fails no block.
_RADIO = ChannelConfig("TDL-A", 30.0, n_rx=4, n_tx=4, snr_db=44.0)


@dataclass(frozen=True)
class CodeBlocks:
    """Code blocks too noisy to be decoded, so that every decoder runs all its iterations.

    Attributes:
        n_bits: K', information bits of a block.
        e_bits: E, bits of a block after rate matching.
        base_graph: 1 or 2.
        lifting_size: Z.
        n_filler: filler bits.
        llr: float32[cb, E], log P(0)/P(1).
    """

    n_bits: int
    e_bits: int
    base_graph: int
    lifting_size: int
    n_filler: int
    llr: npt.NDArray[np.float32]

    def decode(self, n_iterations: int) -> ldpc.LdpcResult:
        """Rate recovery and decoding."""
        soft = ldpc.rate_recover(
            self.llr, self.e_bits, 0, 1, self.base_graph, self.lifting_size, self.n_filler
        )
        return ldpc.decode(soft, self.base_graph, self.lifting_size, n_iterations)


def code_blocks(n_bits: int, code_rate: float, n_blocks: int, seed: int = 1) -> CodeBlocks:
    """Draws noise for `n_blocks` code blocks of base graph 1."""
    e_bits = round(n_bits / code_rate)
    cut = segment(n_bits - 24, 1)
    rng = np.random.default_rng(seed)
    llr = rng.normal(size=(n_blocks, e_bits)).astype(np.float32)
    n_filler = cut.n_info_bits - n_bits
    return CodeBlocks(n_bits, e_bits, 1, cut.lifting_size, n_filler, llr)


def received_slot(
    config: PuschConfig = WHOLE_CARRIER, seed: int = 1
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.complex64], float]:
    """Sends a random transport block through a simulated channel.

    Returns:
        The block uint8[A], what is received complex64[rx, 14, subcarrier], and the noise variance.
    """
    rng = np.random.default_rng(seed)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    channel = Channel(_RADIO, rng)
    return tb, channel(PuschTransmitter(config)(tb)), _RADIO.noise_var
