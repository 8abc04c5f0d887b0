"""Getting everything slow over with before the first slot."""

from __future__ import annotations

import numpy as np

from phy.pusch.config import PuschConfig
from phy.pusch.receiver import PuschReceiver
from phy.pusch.transmitter import PuschTransmitter


def warm_up(config: PuschConfig) -> None:
    """Compiles or loads the kernels and fills the tables that slots of `config` need.

    Without it the first slot takes seconds, because Numba is imported and compiles.
    """
    tb = np.zeros(config.tb_size_bits, dtype=np.uint8)
    sent = PuschTransmitter(config)(tb)
    rng = np.random.default_rng(0)
    # Any channel will do, as long as there is noise to estimate.
    mixing = rng.standard_normal((config.n_rx, sent.shape[0]), dtype=np.float32)
    noise = rng.standard_normal((2, config.n_rx, *sent.shape[1:]), dtype=np.float32)
    received = np.einsum("rp,ptk->rtk", mixing, sent)
    received += np.float32(0.05) * (noise[0] + np.complex64(1j) * noise[1])
    PuschReceiver(config)(received.astype(np.complex64))
