"""Which cells' OFDM slots are turned together, and the tables that the kernels need for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_integer
from phy.ofdm import N_SYMBOLS, PARTS_PER_SYMBOL, OfdmConfig, receiver_phases

_MAX_ANTENNAS = 64
_MAX_ROWS = 65535  # the z axis of a launch grid


@dataclass(frozen=True)
class OfdmBatch:
    """Cells of one numerology, width and FFT size; a row is what one antenna of one cell hears.

    Attributes:
        configs: one for each cell; they may differ in their carrier frequency only.
        n_antennas: of each cell.
        window_offset_samples: how far FFT windows reach into the cyclic prefix, as in
            `phy.ofdm.OfdmDemodulator`; of no account when sending.
        is_half: samples are float16[row, sample, 2]; else complex64[row, sample].

    Raises:
        InvalidInputError: no cells, cells that differ, or a number out of range.
    """

    configs: tuple[OfdmConfig, ...]
    n_antennas: int
    window_offset_samples: int = 0
    is_half: bool = True

    def __post_init__(self) -> None:
        if not self.configs:
            raise InvalidInputError("configs", "must not be empty")
        if len({replace(each, carrier_frequency_hz=0.0) for each in self.configs}) > 1:
            raise InvalidInputError("configs", "may differ in carrier_frequency_hz only")
        check_integer("n_antennas", self.n_antennas, 1, _MAX_ANTENNAS)
        check_integer("configs", self.n_rows, 1, _MAX_ROWS)
        shortest = 9 * self.fft_size // PARTS_PER_SYMBOL
        check_integer("window_offset_samples", self.window_offset_samples, 0, shortest)

    @property
    def fft_size(self) -> int:
        """Samples of a useful symbol."""
        return self.configs[0].n_samples

    @property
    def n_subcarriers(self) -> int:
        """Of a cell's grid."""
        return self.configs[0].n_subcarriers

    @property
    def n_rows(self) -> int:
        """Antennas of all cells."""
        return len(self.configs) * self.n_antennas

    @property
    def n_slots(self) -> int:
        """Slots of a subframe: as many differ in their prefixes or phases."""
        return self.configs[0].slots_per_subframe

    @property
    def row_samples(self) -> int:
        """Samples kept of a row: those of the longest slot. A slot begins where its row does."""
        return max(self.configs[0].slot_samples(slot) for slot in range(self.n_slots))

    @property
    def longest_symbol(self) -> int:
        """Samples of the longest symbol with its cyclic prefix."""
        prefixes = [self.configs[0].cp_lengths(slot) for slot in range(self.n_slots)]
        return self.fft_size + max(map(max, prefixes))

    @property
    def samples_shape(self) -> tuple[int, ...]:
        """Of the samples."""
        shape = (self.n_rows, self.row_samples)
        return (*shape, 2) if self.is_half else shape

    @property
    def samples_dtype(self) -> npt.DTypeLike:
        """Of the samples."""
        return np.float16 if self.is_half else np.complex64

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Of float16 grids: [cell, antenna, symbol, subcarrier, 2]."""
        return (len(self.configs), self.n_antennas, N_SYMBOLS, self.n_subcarriers, 2)

    def starts(self) -> npt.NDArray[np.int32]:
        """Returns int32[slot of the subframe, 14], the first sample behind each cyclic prefix."""
        slots = range(self.n_slots)
        return np.array([self.configs[0].useful_starts(slot) for slot in slots], np.int32)

    def receive_turns(self) -> npt.NDArray[np.complex64]:
        """Returns complex64[cell, slot of the subframe, 14]: what spectra that no one has scaled
        are multiplied by."""
        slots = range(self.n_slots)
        turns = [[receiver_phases(each, slot)[:, 0] for slot in slots] for each in self.configs]
        scaled: npt.NDArray[np.complex64] = np.array(turns, np.complex64)
        scaled *= np.float32(1 / np.sqrt(self.fft_size))
        return scaled

    def transmit_turns(self) -> npt.NDArray[np.complex64]:
        """Returns complex64[cell, slot of the subframe, 14]: what resource elements are multiplied
        by before an inverse FFT that does not scale."""
        return self.receive_turns().conj()
