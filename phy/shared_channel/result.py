"""What comes out of a received slot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phy.array import Array


@dataclass(frozen=True)
class SharedChannelResult:
    """One transport block, received.

    Attributes:
        tb: uint8[tb_size_bits], right only if `crc_ok`.
        crc_ok: the transport block's and all code blocks' CRCs hold.
        noise_var: estimated (or given) variance of the complex noise on a resource element; NaN if
            the slot's samples were not finite.
        snr_db: estimated mean SNR of data of all layers together on one antenna; -inf without any
            signal, NaN if the slot's samples were not finite.
        iterations: int32[cb], LDPC iterations run; empty if the decoder was not reached.
        soft_buffer: float32[cb, N] for HARQ combining; None if the decoder was not reached.
        sinr_db: SINR of the data symbols after equalisation; NaN if the slot's samples were not
            finite.
        rsrp_db: reference signal received power of a port on an antenna, relative to 1 on a
            resource element (TS 38.215 5.1.1).
        timing_offset_ns: mean delay of the channel's energy after the receiver's timing; NaN
            where one pilot alone cannot tell, or without any signal.
        frequency_offset_hz: mean rotation of the channel; NaN with a single DM-RS position, with
            the estimator "ls", or without any signal.
    """

    tb: Array
    crc_ok: bool
    noise_var: float
    snr_db: float
    iterations: Array
    soft_buffer: Array | None
    sinr_db: float = math.nan
    rsrp_db: float = math.nan
    timing_offset_ns: float = math.nan
    frequency_offset_hz: float = math.nan
