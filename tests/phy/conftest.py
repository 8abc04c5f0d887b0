from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pytest


@dataclass(frozen=True)
class ParityChecks:
    """The parity-check matrix as lists of bit positions, read straight from the spec's tables."""

    rows: np.ndarray
    columns: np.ndarray
    n_checks: int

    def hold(self, word: np.ndarray) -> bool:
        """H c = 0 over GF(2), for a whole code word with its first 2 Z bits."""
        sums = np.bincount(self.rows, weights=word[self.columns], minlength=self.n_checks)
        return not np.any(sums.astype(int) % 2)


# TS 38.212 table 5.3.2-1, as printed.
LIFTING_SETS = (
    (2, 4, 8, 16, 32, 64, 128, 256),
    (3, 6, 12, 24, 48, 96, 192, 384),
    (5, 10, 20, 40, 80, 160, 320),
    (7, 14, 28, 56, 112, 224),
    (9, 18, 36, 72, 144, 288),
    (11, 22, 44, 88, 176, 352),
    (13, 26, 52, 104, 208),
    (15, 30, 60, 120, 240),
)


@pytest.fixture(scope="session")
def lifting_sets() -> tuple[tuple[int, ...], ...]:
    return LIFTING_SETS


@pytest.fixture(scope="session")
def parity_checks():
    """Builds H of a base graph and lifting size: (number, z) -> ParityChecks."""

    def build(number: int, z: int) -> ParityChecks:
        index = next(i for i, sizes in enumerate(LIFTING_SETS) if z in sizes)
        text = resources.files("phy.nr").joinpath(f"data/base_graph_{number}.csv").read_text()
        lines = [line for line in text.splitlines() if line and line[0].isdigit()]
        rows, columns = [], []
        for fields in csv.reader(lines):
            row, column, shift = int(fields[0]), int(fields[1]), int(fields[2 + index]) % z
            rows += [row * z + i for i in range(z)]
            columns += [column * z + (i + shift) % z for i in range(z)]
        return ParityChecks(np.array(rows), np.array(columns), max(rows) + 1)

    return build


@pytest.fixture(scope="session")
def gold_sequence():
    """The scrambling sequence as the spec defines it: (c_init, n) -> bits."""

    def gold_sequence(c_init: int, n: int) -> list[int]:
        """TS 38.211 5.2.1 bit by bit."""
        x1 = [1] + [0] * 30
        x2 = [(c_init >> i) & 1 for i in range(31)]
        for i in range(1600 + n):
            x1.append(x1[i + 3] ^ x1[i])
            x2.append(x2[i + 3] ^ x2[i + 2] ^ x2[i + 1] ^ x2[i])
        return [x1[i + 1600] ^ x2[i + 1600] for i in range(n)]

    return gold_sequence


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240601)


@pytest.fixture(scope="session")
def random_tb():
    """Draws a transport block of a configuration: (config, rng) -> uint8[tb_size_bits]."""

    def draw(config, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)

    return draw


@pytest.fixture(scope="session")
def noise():
    """Draws complex noise of variance 1: (rng, *shape) -> complex64[shape]."""

    def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
        values = rng.standard_normal((2, *shape)) / np.sqrt(2)
        return (values[0] + 1j * values[1]).astype(np.complex64)

    return draw


@pytest.fixture(scope="session")
def faded(noise):
    """A still two-path Rayleigh channel of mean power 1: [port, 14, k] -> [rx, 14, k]."""

    def pass_through(grid, n_rx, rng, delays_ns=(0.0, 300.0), scs_khz=30) -> np.ndarray:
        turns = scs_khz * 1e-6 * np.multiply.outer(delays_ns, np.arange(grid.shape[-1]))
        taps = noise(rng, n_rx, grid.shape[0], len(delays_ns)) / np.sqrt(len(delays_ns))
        response = taps @ np.exp(-2j * np.pi * turns)
        return np.einsum("rpk,ptk->rtk", response, grid).astype(np.complex64)

    return pass_through
