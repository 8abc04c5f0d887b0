"""The base station's side: a received resource grid back to the transport block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_integer
from phy.nr import dmrs, modulation, sch
from phy.pusch.config import N_SYMBOLS, PuschConfig
from phy.receiver.channel_estimation import (
    DelayWindow,
    FrequencyInterpolator,
    least_squares,
    noise_variance,
    time_weights,
)
from phy.receiver.equaliser import combine

_LEAST_POWER = 1.0e-20


@dataclass(frozen=True)
class PuschResult:
    """What came out of one slot.

    Attributes:
        tb: uint8[tb_size_bits], right only if `crc_ok`.
        crc_ok: the transport block's and all code blocks' CRCs hold.
        noise_var: estimated (or given) variance of the complex noise on a resource element; NaN if
            the slot's samples were not finite.
        snr_db: estimated mean SNR of data on one antenna; -inf without any signal, NaN if the
            slot's samples were not finite.
        iterations: int32[cb], LDPC iterations run; empty if the decoder was not reached.
        soft_buffer: float32[cb, N] for HARQ combining; None if the decoder was not reached.
    """

    tb: Array
    crc_ok: bool
    noise_var: float
    snr_db: float
    iterations: Array
    soft_buffer: Array | None


class PuschReceiver:
    """Receives what a PuschTransmitter of the same `config` sent through a channel."""

    def __init__(
        self,
        config: PuschConfig,
        n_iterations: int = 10,
        delay_window: DelayWindow | None = None,
    ) -> None:
        """`n_iterations` limits the LDPC decoder; `delay_window` is where the channel's paths are
        expected relative to the receiver's timing.

        Raises:
            InvalidInputError: `n_iterations` is out of range.
        """
        check_integer("n_iterations", n_iterations, 1, 1000)
        self.config = config
        self._n_iterations = n_iterations
        self._comb = dmrs.subcarriers(config.n_prb, port=0)
        self._in_frequency = FrequencyInterpolator(
            self._comb.size, int(self._comb[0]), config.scs_khz, delay_window
        )
        self._in_time = time_weights(config.dmrs_symbols, N_SYMBOLS)

    def __call__(
        self,
        grid: Array,
        noise_var: float | None = None,
        *,
        slot_number: int | None = None,
        soft_buffer: Array | None = None,
    ) -> PuschResult:
        """Receives one slot.

        Args:
            grid: complex64[rx, 14, 12 * n_prb]. NaN or infinite samples fail the slot, no more.
            noise_var: variance of the complex noise on a resource element; None: estimated.
            slot_number: slot within the frame; None: the configured one.
            soft_buffer: float32[cb, N] of the block's earlier transmissions.

        Raises:
            InvalidInputError: wrong shape or dtype, a negative noise variance or a slot number out
                of range.

        Spec: TS 38.211 6.3.1, 6.4.1.1; TS 38.212 6.2
        """
        config = self.config
        slot_number = config.slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, config.slots_per_frame - 1)
        self._check_grid(grid, noise_var)
        xp = array_module(grid)
        if not bool(xp.isfinite(grid).all()):
            return self._failed(grid)
        # Samples near the end of the float range overflow into NaN, which the decoder refuses.
        with np.errstate(all="ignore"):
            symbols, symbol_noise, noise, snr_db = self._equalise(grid, noise_var, slot_number)
            llr = modulation.demap(symbols, symbol_noise, config.mcs.modulation_order)
            llr *= 1 - 2 * xp.asarray(config.scrambling_sequence).astype(xp.float32)
            found = sch.decode(llr, config.sch, soft_buffer, self._n_iterations)
        return PuschResult(
            tb=found.tb,
            crc_ok=found.crc_ok,
            noise_var=noise,
            snr_db=snr_db,
            iterations=found.iterations,
            soft_buffer=found.soft_buffer,
        )

    def _equalise(
        self, grid: Array, noise_var: float | None, slot_number: int
    ) -> tuple[Array, Array, float, float]:
        """Returns data symbols complex64[n], their noise variances float32[n], the noise variance
        on a resource element and the SNR in dB."""
        config = self.config
        xp = array_module(grid)
        pilots = xp.asarray(config.pilots(slot_number))
        rows = xp.asarray(config.dmrs_symbols)
        received = grid[:, rows[:, None], xp.asarray(self._comb)]
        raw = least_squares(received, pilots)
        pilot_power = dmrs.amplitude(config.n_cdm_groups_without_data) ** 2
        if noise_var is None:
            noise_var = float(noise_variance(raw).mean()) * pilot_power
        signal = float((raw.real**2 + raw.imag**2).mean()) - noise_var / pilot_power
        snr = max(signal, 0.0) / max(noise_var, _LEAST_POWER)
        snr_db = 10 * float(np.log10(snr)) if snr > 0 else -float("inf")
        smooth = self._in_frequency(raw, snr_db + 10 * float(np.log10(pilot_power)))
        channel = xp.asarray(self._in_time) @ smooth
        mask = xp.asarray(config.data_mask)
        symbols, symbol_noise = combine(grid[:, mask], channel[:, mask], noise_var)
        return symbols, symbol_noise, noise_var, snr_db

    def _check_grid(self, grid: Array, noise_var: float | None) -> None:
        shape = (self.config.n_rx, N_SYMBOLS, self.config.n_subcarriers)
        if getattr(getattr(grid, "dtype", None), "kind", None) != "c":
            kind = getattr(grid, "dtype", type(grid).__name__)
            raise InvalidInputError("grid", f"must be an array of complex numbers, got {kind}")
        if grid.shape != shape:
            raise InvalidInputError("grid", f"must have shape {shape}, got {grid.shape}")
        if noise_var is not None and not noise_var >= 0:
            raise InvalidInputError("noise_var", f"must not be negative, got {noise_var}")

    def _failed(self, grid: Array) -> PuschResult:
        xp = array_module(grid)
        return PuschResult(
            tb=xp.zeros(self.config.tb_size_bits, dtype=xp.uint8),
            crc_ok=False,
            noise_var=float("nan"),
            snr_db=float("nan"),
            iterations=xp.zeros(0, dtype=xp.int32),
            soft_buffer=None,
        )
