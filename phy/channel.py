"""A simulated radio channel: tapped delay lines with fading, interference and noise.

Everything here is simulation; the seeded generator makes every run repeatable. Antennas fade
independently of each other ("low" correlation).

Spec: TR 38.901 7.7.2 (tapped delay line models); TS 38.104 G.2 (the simplified ones)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer, check_range

PROFILES = ("TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E")
"""Profiles of TR 38.901, scaled to a delay spread."""

FIXED_PROFILES = ("TDLA30", "TDLB100", "TDLC300")
"""Simplified profiles of TS 38.104 G.2.1 with delays of their own."""

_N_SYMBOLS = 14
_N_WAVES = 32  # plane waves that make up one fading tap


@dataclass(frozen=True)
class ChannelConfig:
    """A channel from `n_tx` transmit to `n_rx` receive antennas.

    Attributes:
        profile: "TDL-A" to "TDL-E", "TDLA30", "TDLB100", "TDLC300", or "AWGN": a flat channel whose
            every gain has the magnitude 1, and whose ports are orthogonal at the receiver if there
            are no more of them than receive antennas.
        delay_spread_ns: root mean square delay spread that "TDL-A" to "TDL-E" are scaled to.
        doppler_hz: largest Doppler shift; 0 keeps the channel still.
        n_rx: receive antennas.
        scs_khz: subcarrier spacing.
        snr_db: mean SNR on one antenna's resource element, for data of mean power 1 from one
            transmit antenna.
        n_tx: transmit antennas.
        timing_offset_ns: how much later than its time reference everything reaches the receiver;
            to be within the cyclic prefix.
        frequency_offset_hz: turns every symbol as a whole; leakage between subcarriers, which it
            would cause as well, is left out.
        interference_to_noise_db: mean power over the noise of another transmitter, which sends QPSK
            on every resource element through a channel of the same kind; None: there is none.

    Raises:
        InvalidInputError: a field is out of range.
    """

    profile: str = "TDL-A"
    delay_spread_ns: float = 100.0
    doppler_hz: float = 0.0
    n_rx: int = 2
    scs_khz: int = 30
    snr_db: float = 20.0
    n_tx: int = 1
    timing_offset_ns: float = 0.0
    frequency_offset_hz: float = 0.0
    interference_to_noise_db: float | None = None

    def __post_init__(self) -> None:
        check_choice("profile", self.profile, (*PROFILES, *FIXED_PROFILES, "AWGN"))
        check_range("delay_spread_ns", self.delay_spread_ns, 0.0, 10_000.0)
        check_range("doppler_hz", self.doppler_hz, 0.0, 10_000.0)
        check_integer("n_rx", self.n_rx, 1, 16)
        check_choice("scs_khz", self.scs_khz, (15, 30, 60, 120))
        check_range("snr_db", self.snr_db, -100.0, 100.0)
        check_integer("n_tx", self.n_tx, 1, 16)
        check_range("timing_offset_ns", self.timing_offset_ns, -5_000.0, 5_000.0)
        check_range("frequency_offset_hz", self.frequency_offset_hz, -60_000.0, 60_000.0)
        if self.interference_to_noise_db is not None:
            check_range("interference_to_noise_db", self.interference_to_noise_db, -100.0, 100.0)

    @property
    def noise_var(self) -> float:
        """Variance of the complex noise on a resource element, interference left out."""
        return float(10 ** (-self.snr_db / 10))

    @property
    def symbol_s(self) -> float:
        """Duration of a symbol, in seconds; all are taken as equally long."""
        return 1e-3 / (self.scs_khz / 15) / _N_SYMBOLS


@dataclass(frozen=True)
class Fading:
    """One drawn channel, which goes on in time.

    Attributes:
        config: what it was drawn from.
        taps: complex128[rx, tx, 1, tap], gains at time 0.
        delay_ns: float64[tap].
        angle: float64[rx, tx, 1, tap, wave], where each plane wave of a moving channel comes from,
            and its phase; None if the channel is still.
        phase: see `angle`.
        los: bool[tap], which tap is the line of sight.
    """

    config: ChannelConfig
    taps: npt.NDArray[np.complex128]
    delay_ns: npt.NDArray[np.float64]
    angle: npt.NDArray[np.float64] | None
    phase: npt.NDArray[np.float64] | None
    los: npt.NDArray[np.bool_]

    def response(self, n_subcarriers: int, start_s: float = 0.0) -> npt.NDArray[np.complex64]:
        """Returns the frequency response of the slot that starts at `start_s`.

        Returns:
            complex64[rx, tx, 14, subcarrier], mean power 1; read-only where the channel is still.
        """
        config = self.config
        gains = self._gains(start_s) * self._rotation(start_s)[:, None]
        frequency_ghz = np.arange(n_subcarriers) * (config.scs_khz * 1e-6)
        delay_ns = self.delay_ns + config.timing_offset_ns
        steering = np.exp(-2j * np.pi * delay_ns[:, None] * frequency_ghz[None, :])
        response = gains.astype(np.complex64) @ steering.astype(np.complex64)
        return np.broadcast_to(response, (config.n_rx, config.n_tx, _N_SYMBOLS, n_subcarriers))

    def _gains(self, start_s: float) -> npt.NDArray[np.complex128]:
        """Complex gain of every tap: [rx, tx, symbol, tap]; one symbol where it is still."""
        if self.angle is None or self.phase is None:
            return self.taps
        seconds = start_s + self.config.symbol_s * np.arange(_N_SYMBOLS)
        turns = self.config.doppler_hz * seconds
        waves = np.exp(1j * (2 * np.pi * turns[:, None, None] * np.cos(self.angle) + self.phase))
        fading = waves.sum(axis=-1) / np.sqrt(_N_WAVES)
        # TR 38.901 7.7.2: the line-of-sight path has a Doppler shift of 0.7 f_D.
        steady = np.exp(2j * np.pi * 0.7 * turns)[:, None]
        gains: npt.NDArray[np.complex128] = np.where(self.los, steady, fading) * self.taps
        return gains

    def _rotation(self, start_s: float) -> npt.NDArray[np.complex128]:
        """What the frequency offset does to each symbol: [symbol], or [1] if there is none."""
        offset_hz = self.config.frequency_offset_hz
        if offset_hz == 0:
            return np.ones(1, dtype=np.complex128)
        turns = offset_hz * (start_s + self.config.symbol_s * np.arange(_N_SYMBOLS))
        rotation: npt.NDArray[np.complex128] = np.exp(2j * np.pi * turns)
        return rotation


class Channel:
    """Draws a new channel for every slot and passes grids through it."""

    def __init__(self, config: ChannelConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._rng = rng

    def __call__(
        self,
        grid: npt.NDArray[np.complex64],
        fading: Fading | None = None,
        start_s: float = 0.0,
    ) -> npt.NDArray[np.complex64]:
        """Passes one slot through the channel and adds interference and noise.

        Args:
            grid: complex64[tx, 14, subcarrier].
            fading: a channel that `draw` returned, to go on with; None: a newly drawn one.
            start_s: when the slot starts, on the clock of `fading`.

        Returns:
            complex64[rx, 14, subcarrier].

        Raises:
            InvalidInputError: the grid has another number of transmit antennas or symbols.
        """
        config = self.config
        if grid.ndim != 3 or grid.shape[:2] != (config.n_tx, _N_SYMBOLS):
            raise InvalidInputError(
                "grid", f"must have shape [{config.n_tx}, {_N_SYMBOLS}, n], got {grid.shape}"
            )
        response = (fading or self.draw()).response(grid.shape[-1], start_s)
        received = self._noise((config.n_rx, *grid.shape[1:]))
        for port, sent in enumerate(grid):
            received += response[:, port] * sent
        if config.interference_to_noise_db is not None:
            received += self._interference(grid.shape[-1], config.interference_to_noise_db)
        return received

    def draw(self) -> Fading:
        """Draws a channel."""
        config, rng = self.config, self._rng
        shape = (config.n_rx, config.n_tx, 1)
        if config.profile == "AWGN":
            turns = rng.random((config.n_rx, 1, 1))
            turns = turns + np.arange(config.n_rx)[:, None, None] * (
                np.arange(config.n_tx)[:, None] / config.n_rx
            )
            taps = np.exp(2j * np.pi * turns)[..., None]
            return Fading(config, taps, np.zeros(1), None, None, np.ones(1, dtype=np.bool_))
        delay, power, los = _profile(config.profile)
        scale = 1.0 if config.profile in FIXED_PROFILES else config.delay_spread_ns
        angle = phase = None
        fading = np.ones((*shape, power.size), dtype=np.complex128)
        if config.doppler_hz == 0:
            real, imaginary = rng.standard_normal(fading.shape), rng.standard_normal(fading.shape)
            fading = (real + 1j * imaginary) / np.sqrt(2)
        else:
            angle = rng.uniform(0, 2 * np.pi, (*shape, power.size, _N_WAVES))
            phase = rng.uniform(0, 2 * np.pi, angle.shape)
        steady = np.exp(2j * np.pi * rng.random((*shape, 1)))
        taps = np.where(los, steady, fading) * np.sqrt(power)
        return Fading(config, taps, delay * scale, angle, phase, los)

    def response(self, n_subcarriers: int) -> npt.NDArray[np.complex64]:
        """Draws a channel; returns the first transmit antenna's complex64[rx, 14, subcarrier]."""
        return self.draw().response(n_subcarriers)[:, 0]

    def _noise(self, shape: tuple[int, ...]) -> npt.NDArray[np.complex64]:
        noise = self._rng.standard_normal((2, *shape), dtype=np.float32)
        scale = np.float32(np.sqrt(self.config.noise_var / 2))
        received: npt.NDArray[np.complex64] = scale * (noise[0] + np.complex64(1j) * noise[1])
        return received

    def _interference(self, n_subcarriers: int, to_noise_db: float) -> npt.NDArray[np.complex64]:
        signs = 1 - 2 * self._rng.integers(0, 2, (2, _N_SYMBOLS, n_subcarriers), dtype=np.int8)
        power = self.config.noise_var * 10 ** (to_noise_db / 10)
        scale = np.float32(np.sqrt(power / 2))
        sent = scale * (signs[0] + np.complex64(1j) * signs[1])
        received: npt.NDArray[np.complex64] = self.response(n_subcarriers) * sent
        return received


@lru_cache(maxsize=8)
def _profile(
    name: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Delays, powers that sum to 1, and which component is line of sight."""
    text = resources.files("phy").joinpath("data/tdl_profiles.csv").read_text("utf-8")
    rows = [line.split(",") for line in text.splitlines() if line.startswith(f"{name},")]
    power = 10 ** (np.array([float(row[2]) for row in rows]) / 10)
    delay = np.array([float(row[1]) for row in rows])
    return delay, power / power.sum(), np.array([row[3] == "los" for row in rows])
