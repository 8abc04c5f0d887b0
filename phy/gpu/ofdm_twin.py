"""NumPy twins of phy/kernels/ofdm.cu, and with NumPy's FFT between them of phy/gpu/ofdm.py.

Numbers are rounded where the kernels round: samples and grids to float16, the rest is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu.ofdm_batch import OfdmBatch
from phy.ofdm import N_SYMBOLS

Samples = npt.NDArray[np.float16] | npt.NDArray[np.complex64]


def gather(batch: OfdmBatch, samples: Samples, slot_number: int) -> npt.NDArray[np.complex64]:
    """Twin of `gather_*`: samples of the batch's shape to windows complex64[row, 14, FFT size]."""
    values = _complex(samples) if batch.is_half else samples
    offset, size = batch.window_offset_samples, batch.fft_size
    windows = np.empty((batch.n_rows, N_SYMBOLS, size), np.complex64)
    for symbol, start in enumerate(batch.configs[0].useful_starts(slot_number)):
        window = values[:, start - offset : start - offset + size]
        windows[:, symbol] = np.roll(window, -offset, axis=-1)
    return windows


def scatter(
    batch: OfdmBatch, spectra: npt.NDArray[np.complex64], slot_number: int
) -> npt.NDArray[np.float16]:
    """Twin of `scatter_grid`: complex64[row, 14, FFT size] to grids of the batch's shape."""
    half = batch.n_subcarriers // 2
    carrier = np.concatenate([spectra[..., -half:], spectra[..., :half]], axis=-1)
    turns = batch.receive_turns()[:, slot_number % batch.n_slots]
    cells = carrier.reshape(batch.grid_shape[:-1]) * turns[:, None, :, None]
    return _pairs(cells)


def spread(
    batch: OfdmBatch, grid: npt.NDArray[np.float16], slot_number: int
) -> npt.NDArray[np.complex64]:
    """Twin of `spread_grid`: grids to spectra complex64[row, 14, FFT size]."""
    half = batch.n_subcarriers // 2
    turns = batch.transmit_turns()[:, slot_number % batch.n_slots]
    cells = _complex(grid) * turns[:, None, :, None]
    spectra = np.zeros((batch.n_rows, N_SYMBOLS, batch.fft_size), np.complex64)
    carrier = cells.reshape(batch.n_rows, N_SYMBOLS, -1)
    spectra[..., :half] = carrier[..., half:]
    spectra[..., -half:] = carrier[..., :half]
    return spectra


def join(
    batch: OfdmBatch, useful: npt.NDArray[np.complex64], slot_number: int, samples: Samples
) -> None:
    """Twin of `join_*`: useful parts complex64[row, 14, FFT size] to samples of the batch's shape;
    what a shorter slot leaves of them stays as it is."""
    values = _pairs(useful) if batch.is_half else useful
    prefixes = batch.configs[0].cp_lengths(slot_number)
    for symbol, start in enumerate(batch.configs[0].useful_starts(slot_number)):
        samples[:, start : start + batch.fft_size] = values[:, symbol]
        prefix = prefixes[symbol]
        samples[:, start - prefix : start] = values[:, symbol, batch.fft_size - prefix :]


def demodulate(batch: OfdmBatch, samples: Samples, slot_number: int) -> npt.NDArray[np.float16]:
    """Twin of `SlotDemodulator`: samples to grids, both of the batch's shape."""
    spectra = np.fft.fft(gather(batch, samples, slot_number)).astype(np.complex64)
    return scatter(batch, spectra, slot_number)


def modulate(
    batch: OfdmBatch, grid: npt.NDArray[np.float16], slot_number: int, samples: Samples
) -> None:
    """Twin of `SlotModulator`: grids to samples, both of the batch's shape."""
    useful = np.fft.ifft(spread(batch, grid, slot_number), norm="forward").astype(np.complex64)
    join(batch, useful, slot_number, samples)


def _complex(pairs: npt.NDArray[Any]) -> npt.NDArray[np.complex64]:
    """float16[..., 2] as complex64[...]."""
    values: npt.NDArray[np.complex64] = pairs.astype(np.float32).view(np.complex64)[..., 0]
    return values


def _pairs(values: npt.NDArray[np.complex64]) -> npt.NDArray[np.float16]:
    """complex64[...] as float16[..., 2]; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values)[..., None].view(np.float32).astype(np.float16)
