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
    receive = PuschReceiver(config)
    rng = np.random.default_rng(0)
    for snr_db in range(-9, 42, 3):  # one filter design for each step of the estimated SNR
        scale = np.float32(10 ** (-snr_db / 20) / np.sqrt(2))
        noise = rng.standard_normal((2, config.n_rx, *sent.shape[1:]), dtype=np.float32)
        receive((sent + scale * (noise[0] + np.complex64(1j) * noise[1])).astype(np.complex64))
