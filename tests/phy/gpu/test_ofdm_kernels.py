"""The OFDM kernels, emulated on the CPU, against their twins, and the twins against phy.ofdm."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.gpu import ofdm_twin as twin
from phy.gpu.ofdm_batch import OfdmBatch
from phy.ofdm import OfdmConfig, OfdmDemodulator, OfdmModulator

from .emulation import emulated

THREADS = 256
PER_BLOCK = 4 * THREADS
UNTOUCHED = 99.0

BATCHES = {
    "two cells, unlike carriers": OfdmBatch(
        (OfdmConfig(30, 11, 256, 3.5e9), OfdmConfig(30, 11, 256, 3.6e9)), 2, 7
    ),
    "more samples than a block takes": OfdmBatch((OfdmConfig(30, 106, 1536, 2e9),), 1, 108),
    "slots of unlike length": OfdmBatch((OfdmConfig(60, 5, 128, 4e9),) * 2, 3, 9),
    "complex64 samples": OfdmBatch((OfdmConfig(120, 11, 256, 28e9),) * 3, 1, is_half=False),
    "a full FFT": OfdmBatch((OfdmConfig(15, 32, 384, 1e9),), 1),
}
SLOTS = {30: (0, 1, 19), 60: (0, 1, 2, 39), 120: (0, 3, 4, 77), 15: (0, 9)}


@pytest.fixture(params=BATCHES)
def batch(request) -> OfdmBatch:
    return BATCHES[request.param]


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal((*shape, 2)) @ (1, 1j) / np.sqrt(2)).astype(np.complex64)


def as_pairs(values: np.ndarray) -> np.ndarray:
    return np.stack([values.real, values.imag], axis=-1).astype(np.float16)


def as_complex(pairs: np.ndarray) -> np.ndarray:
    return pairs[..., 0].astype(np.float32) + np.complex64(1j) * pairs[..., 1].astype(np.float32)


def random_samples(rng: np.random.Generator, batch: OfdmBatch) -> np.ndarray:
    values = complex_noise(rng, batch.n_rows, batch.row_samples)
    return as_pairs(values) if batch.is_half else values


def launch(batch: OfdmBatch, name: str, n_places: int, *arguments: np.ndarray | int) -> None:
    grid = (-(-n_places // PER_BLOCK), 14, batch.n_rows)
    emulated("ofdm").launch(name, grid, THREADS, *arguments)


def kind(batch: OfdmBatch) -> str:
    return "half" if batch.is_half else "float"


def ulps(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference in units of the last place of float16."""
    return float((np.abs(found.astype(np.float32) - expected) / np.spacing(abs(expected))).max())


def test_windows_are_the_twins(batch, rng) -> None:
    samples = random_samples(rng, batch)
    for slot in SLOTS[batch.configs[0].scs_khz]:
        windows = np.full((batch.n_rows, 14, batch.fft_size), UNTOUCHED, np.complex64)
        tables = (samples, np.array([slot], np.int32), batch.starts(), windows)
        sizes = (batch.fft_size, batch.row_samples, batch.n_slots, batch.window_offset_samples)
        launch(batch, f"gather_{kind(batch)}", batch.fft_size, *tables, *sizes)
        np.testing.assert_array_equal(windows, twin.gather(batch, samples, slot))


def test_grids_are_the_twins(batch, rng) -> None:
    spectra = complex_noise(rng, batch.n_rows, 14, batch.fft_size)
    for slot in SLOTS[batch.configs[0].scs_khz]:
        grid = np.full(batch.grid_shape, UNTOUCHED, np.float16)
        tables = (spectra, np.array([slot], np.int32), batch.receive_turns(), grid)
        sizes = (batch.fft_size, batch.n_subcarriers, batch.n_slots, batch.n_antennas)
        launch(batch, "scatter_grid", batch.n_subcarriers, *tables, *sizes)
        expected = twin.scatter(batch, spectra, slot)
        assert ulps(grid, expected) <= 1
        assert np.mean(grid != expected) < 1e-3


def test_spectra_are_the_twins(batch, rng) -> None:
    grid = as_pairs(complex_noise(rng, *batch.grid_shape[:-1]))
    for slot in SLOTS[batch.configs[0].scs_khz]:
        spectra = np.full((batch.n_rows, 14, batch.fft_size), UNTOUCHED, np.complex64)
        tables = (grid, np.array([slot], np.int32), batch.transmit_turns(), spectra)
        sizes = (batch.fft_size, batch.n_subcarriers, batch.n_slots, batch.n_antennas)
        launch(batch, "spread_grid", batch.fft_size, *tables, *sizes)
        np.testing.assert_allclose(spectra, twin.spread(batch, grid, slot), atol=1e-6)
        half = batch.n_subcarriers // 2
        assert not spectra[..., half : batch.fft_size - half].any()


def test_samples_are_the_twins_and_nothing_behind_the_slot_is_touched(batch, rng) -> None:
    useful = complex_noise(rng, batch.n_rows, 14, batch.fft_size)
    for slot in SLOTS[batch.configs[0].scs_khz]:
        samples, expected = (
            np.full(batch.samples_shape, UNTOUCHED, batch.samples_dtype) for _ in range(2)
        )
        tables = (useful, np.array([slot], np.int32), batch.starts(), samples)
        sizes = (batch.fft_size, batch.row_samples, batch.n_slots)
        launch(batch, f"join_{kind(batch)}", batch.longest_symbol, *tables, *sizes)
        twin.join(batch, useful, slot, expected)
        np.testing.assert_array_equal(samples, expected)
        end = batch.configs[0].slot_samples(slot)
        assert (samples[:, end:] == UNTOUCHED).all()
        assert not (samples[:, :end] == UNTOUCHED).any()


def test_the_twin_demodulates_as_the_float_path(batch, rng) -> None:
    samples = random_samples(rng, batch)
    heard = as_complex(samples) if batch.is_half else samples
    for slot in SLOTS[batch.configs[0].scs_khz]:
        found = as_complex(twin.demodulate(batch, samples, slot))
        for cell, config in enumerate(batch.configs):
            rows = heard[cell * batch.n_antennas : (cell + 1) * batch.n_antennas]
            expected = OfdmDemodulator(config, batch.window_offset_samples)(rows, slot)
            np.testing.assert_allclose(found[cell], expected, rtol=2e-3, atol=1e-3)


def test_the_twin_modulates_as_the_float_path(batch, rng) -> None:
    grid = as_pairs(complex_noise(rng, *batch.grid_shape[:-1]))
    for slot in SLOTS[batch.configs[0].scs_khz]:
        samples = np.zeros(batch.samples_shape, batch.samples_dtype)
        twin.modulate(batch, grid, slot, samples)
        sent = as_complex(samples) if batch.is_half else samples
        for cell, config in enumerate(batch.configs):
            rows = sent[cell * batch.n_antennas : (cell + 1) * batch.n_antennas]
            expected = OfdmModulator(config)(as_complex(grid[cell]), slot)
            found = rows[:, : config.slot_samples(slot)]
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_rounding_to_binary16_costs_less_than_the_noise_of_a_good_link(rng) -> None:
    """A grid of unit power through float16 samples and back: an error 70 dB below it or less."""
    batch = OfdmBatch((OfdmConfig(30, 51, carrier_frequency_hz=3.5e9),), 2, 36)
    grid = as_pairs(complex_noise(rng, *batch.grid_shape[:-1]))
    samples = np.zeros(batch.samples_shape, np.float16)
    twin.modulate(batch, grid, 5, samples)
    error = as_complex(twin.demodulate(batch, samples, 5)) - as_complex(grid)
    assert 10 * np.log10(np.mean(np.abs(error) ** 2)) < -70


def test_an_overflow_becomes_infinite_as_in_the_kernel(rng) -> None:
    batch = BATCHES["two cells, unlike carriers"]
    spectra = 1e7 * complex_noise(rng, batch.n_rows, 14, batch.fft_size)
    grid = np.zeros(batch.grid_shape, np.float16)
    tables = (spectra, np.zeros(1, np.int32), batch.receive_turns(), grid)
    sizes = (batch.fft_size, batch.n_subcarriers, batch.n_slots, batch.n_antennas)
    launch(batch, "scatter_grid", batch.n_subcarriers, *tables, *sizes)
    is_infinite = np.isinf(grid)
    assert 0.8 < is_infinite.mean() < 1.0
    assert np.mean(is_infinite == np.isinf(twin.scatter(batch, spectra, 0))) > 0.999


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (((), 4), "configs"),
        (((OfdmConfig(30, 11), OfdmConfig(30, 12)), 4), "configs"),
        (((OfdmConfig(30, 11),), 0), "n_antennas"),
        (((OfdmConfig(30, 11),) * 2000, 64), "configs"),
        (((OfdmConfig(30, 11, 256),), 1, 19), "window_offset_samples"),
    ],
)
def test_batches_that_no_launch_takes_are_refused(arguments, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        OfdmBatch(*arguments)
    assert caught.value.field == field


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_twin(cp) -> None:
    from phy.gpu import bench_ofdm

    assert bench_ofdm.check() == []
