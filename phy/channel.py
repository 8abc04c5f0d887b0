"""A simulated radio channel: tapped delay lines with Rayleigh or Rician fading, and noise.

Everything here is simulation; the seeded generator makes every run repeatable.

Spec: TR 38.901 7.7.2 (tapped delay line models)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from phy.checks import check_choice, check_integer, check_range

PROFILES = ("TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E")

_N_SYMBOLS = 14
_N_WAVES = 32  # plane waves that make up one fading tap


@dataclass(frozen=True)
class ChannelConfig:
    """A channel from one transmit antenna to `n_rx` uncorrelated receive antennas.

    Attributes:
        profile: "TDL-A" to "TDL-E", or "AWGN" for a flat channel of gain 1 (random phases).
        delay_spread_ns: root mean square delay spread the profile is scaled to.
        doppler_hz: largest Doppler shift; 0 keeps the channel still within a slot.
        n_rx: receive antennas.
        scs_khz: subcarrier spacing.
        snr_db: mean SNR on one antenna's resource element for data of mean power 1.

    Raises:
        InvalidInputError: a field is out of range.
    """

    profile: str = "TDL-A"
    delay_spread_ns: float = 100.0
    doppler_hz: float = 0.0
    n_rx: int = 2
    scs_khz: int = 30
    snr_db: float = 20.0

    def __post_init__(self) -> None:
        check_choice("profile", self.profile, (*PROFILES, "AWGN"))
        check_range("delay_spread_ns", self.delay_spread_ns, 0.0, 10_000.0)
        check_range("doppler_hz", self.doppler_hz, 0.0, 10_000.0)
        check_integer("n_rx", self.n_rx, 1, 16)
        check_choice("scs_khz", self.scs_khz, (15, 30, 60, 120))
        check_range("snr_db", self.snr_db, -100.0, 100.0)

    @property
    def noise_var(self) -> float:
        """Variance of the complex noise on a resource element."""
        return float(10 ** (-self.snr_db / 10))


class Channel:
    """Draws a new channel for every slot and passes grids through it."""

    def __init__(self, config: ChannelConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._rng = rng

    def __call__(self, grid: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
        """Passes one slot through a newly drawn channel and adds noise.

        Args:
            grid: complex64[1, 14, subcarrier].

        Returns:
            complex64[rx, 14, subcarrier].
        """
        response = self.response(grid.shape[-1])
        shape = response.shape
        noise = self._rng.standard_normal((2, *shape), dtype=np.float32)
        scale = np.float32(np.sqrt(self.config.noise_var / 2))
        received: npt.NDArray[np.complex64] = response * grid[0]
        received += scale * (noise[0] + np.complex64(1j) * noise[1])
        return received

    def response(self, n_subcarriers: int) -> npt.NDArray[np.complex64]:
        """Draws a frequency response: complex64[rx, 14, subcarrier], mean power 1."""
        config = self.config
        if config.profile == "AWGN":
            turns = self._rng.random((config.n_rx, 1, 1))
            flat = np.exp(2j * np.pi * turns).astype(np.complex64)
            return np.broadcast_to(flat, (config.n_rx, _N_SYMBOLS, n_subcarriers))
        delay, power, los = _profile(config.profile)
        gains = self._gains(power, los)
        frequency = np.arange(n_subcarriers) * (config.scs_khz * 1e3)
        seconds = delay * config.delay_spread_ns * 1e-9
        steering = np.exp(-2j * np.pi * seconds[:, None] * frequency[None, :])
        response = gains.astype(np.complex64) @ steering.astype(np.complex64)
        return np.broadcast_to(response, (config.n_rx, _N_SYMBOLS, n_subcarriers))

    def _gains(
        self, power: npt.NDArray[np.float64], los: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.complex128]:
        """Complex gain of every tap: [rx, symbol, tap]; one symbol where the channel is still."""
        config, rng = self.config, self._rng
        shape = (config.n_rx, 1, power.size)
        if config.doppler_hz == 0:
            fading = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
            turning = np.ones(1)
        else:
            symbol_s = 1e-3 / (config.scs_khz / 15) / _N_SYMBOLS
            turns = config.doppler_hz * symbol_s * np.arange(_N_SYMBOLS)
            angle = rng.uniform(0, 2 * np.pi, (config.n_rx, 1, power.size, _N_WAVES))
            phase = rng.uniform(0, 2 * np.pi, angle.shape)
            waves = np.exp(1j * (2 * np.pi * turns[:, None, None] * np.cos(angle) + phase))
            fading = waves.sum(axis=-1) / np.sqrt(_N_WAVES)
            # TR 38.901 7.7.2: the line-of-sight path has a Doppler shift of 0.7 f_D.
            turning = np.exp(2j * np.pi * 0.7 * turns)
        steady = np.exp(2j * np.pi * rng.random((config.n_rx, 1, 1))) * turning[:, None]
        gains: npt.NDArray[np.complex128] = np.where(los, steady, fading) * np.sqrt(power)
        return gains


@lru_cache(maxsize=8)
def _profile(
    name: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Normalised delays, powers that sum to 1, and which component is line of sight."""
    text = resources.files("phy").joinpath("data/tdl_profiles.csv").read_text("utf-8")
    rows = [line.split(",") for line in text.splitlines() if line.startswith(f"{name},")]
    power = 10 ** (np.array([float(row[2]) for row in rows]) / 10)
    delay = np.array([float(row[1]) for row in rows])
    return delay, power / power.sum(), np.array([row[3] == "los" for row in rows])
