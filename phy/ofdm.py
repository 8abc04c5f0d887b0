"""OFDM: the resource grid to time samples and back, with normal cyclic prefix.

Both directions are unitary: the spec's sum of exponentials is divided by sqrt(fft_size), so that a
symbol's useful part has the energy of its resource elements, and white noise has the same variance
on a time sample and on a resource element.

Spec: TS 38.211 5.3.1 (baseband signal), 5.4 (upconversion)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_choice, check_integer, check_range

N_SYMBOLS = 14
"""OFDM symbols of a slot with normal cyclic prefix."""

PARTS_PER_SYMBOL = 128
"""A useful symbol is cut into so many parts; every cyclic prefix is a whole number of them."""

_SCS_KHZ = (15, 30, 60, 120)
_MAX_PRB = 275
_MAX_OCCUPANCY = 0.85


def cp_parts(scs_khz: int, slot_number: int) -> tuple[int, ...]:
    """Returns the cyclic prefixes of a slot's 14 symbols in 1/128 of the useful symbol.

    9 parts (144 of 2048), and 16 kappa T_c more on symbols 0 and 7 * 2^mu of the subframe.

    Raises:
        InvalidInputError: an unknown subcarrier spacing, or a slot number out of range.

    Spec: TS 38.211 5.3.1
    """
    check_choice("scs_khz", scs_khz, _SCS_KHZ)
    slots_per_subframe = scs_khz // 15
    check_integer("slot_number", slot_number, 0, 10 * slots_per_subframe - 1)
    first = N_SYMBOLS * (slot_number % slots_per_subframe)
    longer = (0, 7 * slots_per_subframe)
    return tuple(9 + slots_per_subframe * (first + symbol in longer) for symbol in range(N_SYMBOLS))


@dataclass(frozen=True)
class OfdmConfig:
    """A carrier of one numerology.

    Attributes:
        scs_khz: subcarrier spacing, 15, 30, 60 or 120.
        n_prb: PRBs of the carrier, 1 to 275; subcarrier 6 n_prb lies on the carrier frequency.
        fft_size: samples of a useful symbol, a multiple of 128; None: the smallest power of two of
            which the carrier fills at most 85% (4096 for 273 PRBs).
        carrier_frequency_hz: f_0 for the phase compensation of 5.4, 0 for none.

    Raises:
        InvalidInputError: a field is out of range, or the FFT is too short.
    """

    scs_khz: int
    n_prb: int
    fft_size: int | None = None
    carrier_frequency_hz: float = 0.0

    def __post_init__(self) -> None:
        check_choice("scs_khz", self.scs_khz, _SCS_KHZ)
        check_integer("n_prb", self.n_prb, 1, _MAX_PRB)
        check_range("carrier_frequency_hz", self.carrier_frequency_hz, 0.0, 1e12)
        if self.fft_size is None:
            object.__setattr__(self, "fft_size", _default_fft_size(self.n_subcarriers))
        check_integer("fft_size", self.fft_size, PARTS_PER_SYMBOL, 1 << 20)
        if self.n_samples % PARTS_PER_SYMBOL:
            raise InvalidInputError("fft_size", f"must be a multiple of {PARTS_PER_SYMBOL}")
        if self.n_samples < self.n_subcarriers:
            raise InvalidInputError("fft_size", f"must be at least {self.n_subcarriers}")

    @property
    def n_subcarriers(self) -> int:
        """Subcarriers of the grid."""
        return 12 * self.n_prb

    @property
    def n_samples(self) -> int:
        """Samples of a useful symbol: the FFT size."""
        return self.fft_size or _default_fft_size(self.n_subcarriers)

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second."""
        return self.n_samples * self.scs_khz * 1000

    @property
    def slots_per_subframe(self) -> int:
        """Slots in 1 ms."""
        return self.scs_khz // 15

    def cp_lengths(self, slot_number: int) -> tuple[int, ...]:
        """Returns the samples of the slot's 14 cyclic prefixes. Spec: TS 38.211 5.3.1"""
        part = self.n_samples // PARTS_PER_SYMBOL
        return tuple(part * parts for parts in cp_parts(self.scs_khz, slot_number))

    def slot_samples(self, slot_number: int) -> int:
        """Returns the samples of a slot; above 30 kHz not all slots are of one length."""
        return sum(self.cp_lengths(slot_number)) + N_SYMBOLS * self.n_samples

    def useful_starts(self, slot_number: int) -> tuple[int, ...]:
        """Returns the first sample after each cyclic prefix, counted from the slot's start."""
        prefixes = self.cp_lengths(slot_number)
        return tuple(
            sum(prefixes[: symbol + 1]) + symbol * self.n_samples for symbol in range(N_SYMBOLS)
        )


class OfdmModulator:
    """Turns grids into the samples that an upconverter to `carrier_frequency_hz` expects."""

    def __init__(self, config: OfdmConfig) -> None:
        self.config = config

    def __call__(self, grid: Array, slot_number: int) -> Array:
        """Modulates one slot.

        Args:
            grid: complex64[..., 14, 12 n_prb].
            slot_number: slot within the frame.

        Returns:
            complex64[..., samples], `config.slot_samples(slot_number)` of them.

        Raises:
            InvalidInputError: wrong shape or dtype, or a slot number out of range.

        Spec: TS 38.211 5.3.1, 5.4
        """
        config = self.config
        _check_complex("grid", grid)
        if grid.shape[-2:] != (N_SYMBOLS, config.n_subcarriers):
            expected = f"(..., {N_SYMBOLS}, {config.n_subcarriers})"
            raise InvalidInputError("grid", f"must have shape {expected}, got {grid.shape}")
        xp = array_module(grid)
        prefixes = config.cp_lengths(slot_number)
        turns = xp.asarray(receiver_phases(config, slot_number, 0).conj())
        half = config.n_subcarriers // 2
        spectrum = xp.zeros((*grid.shape[:-1], config.n_samples), dtype=xp.complex64)
        spectrum[..., :half] = grid[..., half:] * turns
        spectrum[..., -half:] = grid[..., :half] * turns
        useful = xp.fft.ifft(spectrum, axis=-1, norm="ortho")
        n_samples = config.slot_samples(slot_number)
        samples = xp.empty((*grid.shape[:-2], n_samples), dtype=xp.complex64)
        for symbol, start in enumerate(config.useful_starts(slot_number)):
            prefix = prefixes[symbol]
            samples[..., start : start + config.n_samples] = useful[..., symbol, :]
            samples[..., start - prefix : start] = useful[..., symbol, -prefix:]
        return samples


class OfdmDemodulator:
    """Turns samples from a downconverter of `carrier_frequency_hz` into grids."""

    def __init__(self, config: OfdmConfig, window_offset_samples: int = 0) -> None:
        """`window_offset_samples` moves every FFT window so far into the cyclic prefix; signals
        that arrive early by that much, or late by the rest of the prefix, stay free of
        interference. The linear phase it brings is taken out.

        Raises:
            InvalidInputError: the offset is longer than the cyclic prefix.
        """
        shortest = 9 * config.n_samples // PARTS_PER_SYMBOL
        check_integer("window_offset_samples", window_offset_samples, 0, shortest)
        self.config = config
        self._window_offset = int(window_offset_samples)

    def __call__(self, samples: Array, slot_number: int, first_sample: int = 0) -> Array:
        """Demodulates one slot.

        Args:
            samples: complex64[..., n], at least the slot's samples from `first_sample` on.
            slot_number: slot within the frame.
            first_sample: where in `samples` the slot's first cyclic prefix begins.

        Returns:
            complex64[..., 14, 12 n_prb].

        Raises:
            InvalidInputError: wrong shape or dtype, too few samples, or a slot number out of range.

        Spec: TS 38.211 5.3.1, 5.4
        """
        config = self.config
        _check_complex("samples", samples)
        n_samples = config.slot_samples(slot_number)
        check_integer("first_sample", first_sample, 0, 1 << 62)
        if samples.shape[-1] - first_sample < n_samples:
            raise InvalidInputError(
                "samples",
                f"must hold {n_samples} samples from {first_sample} on, got {samples.shape[-1]}",
            )
        xp = array_module(samples)
        shape = (*samples.shape[:-1], N_SYMBOLS, config.n_samples)
        windows = xp.empty(shape, dtype=xp.complex64)
        for symbol, useful in enumerate(config.useful_starts(slot_number)):
            start = first_sample + useful - self._window_offset
            windows[..., symbol, :] = samples[..., start : start + config.n_samples]
        spectrum = xp.fft.fft(windows, axis=-1, norm="ortho")
        half = config.n_subcarriers // 2
        grid = xp.empty((*shape[:-1], config.n_subcarriers), dtype=xp.complex64)
        grid[..., :half] = spectrum[..., -half:]
        grid[..., half:] = spectrum[..., :half]
        grid *= xp.asarray(receiver_phases(config, slot_number, self._window_offset))
        return grid


def _default_fft_size(n_subcarriers: int) -> int:
    size = PARTS_PER_SYMBOL
    while n_subcarriers > _MAX_OCCUPANCY * size:
        size *= 2
    return size


@lru_cache(maxsize=64)
def receiver_phases(
    config: OfdmConfig, slot_number: int, window_offset: int = 0
) -> npt.NDArray[np.complex64]:
    """What the receiver multiplies by: complex64[14, 1], or [14, 12 n_prb] with a window offset.

    5.4 starts the carrier's phase afresh at every symbol's useful part, at a time that counts from
    the subframe's start; a carrier that just runs on is ahead of it by f_0 times that time.

    Spec: TS 38.211 5.4
    """
    slot = slot_number % config.slots_per_subframe
    before = sum(config.slot_samples(earlier) for earlier in range(slot))
    start = before + np.array(config.useful_starts(slot_number))
    turns = np.mod(config.carrier_frequency_hz / config.sample_rate_hz * start, 1.0)[:, None]
    if window_offset:
        subcarrier = np.arange(config.n_subcarriers) - config.n_subcarriers // 2
        turns = turns + subcarrier * window_offset / config.n_samples
    phases = np.exp(2j * np.pi * turns).astype(np.complex64)
    phases.setflags(write=False)
    return phases


def _check_complex(field: str, array: Array) -> None:
    if getattr(getattr(array, "dtype", None), "kind", None) != "c":
        kind = getattr(array, "dtype", type(array).__name__)
        raise InvalidInputError(field, f"must be an array of complex numbers, got {kind}")
    if array.ndim == 0:
        raise InvalidInputError(field, "must have at least one axis")
