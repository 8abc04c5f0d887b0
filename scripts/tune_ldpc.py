"""Measures the best normalisation of the min-sum decoder for each base graph and code rate.

For every rate it finds the SNR at which one block in ten fails with 0.75, and there counts failures
over all normalisations, each with the same noise: BPSK in white noise, 10 iterations. The last
column is the minimum of a parabola through the logarithms, in 1/32; the table in
phy/nr/ldpc_decoder.py holds the means over the lifting sizes.

    python scripts/tune_ldpc.py [blocks a point, default 3000]
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from phy.nr import ldpc

SEED = 212
N_ITERATIONS = 10
TARGET_BLER = 0.1
BATCH = 100
CANDIDATES = range(18, 33)  # in 1/32
N_INFO_COLUMNS = {1: 22, 2: 10}
ROWS = {1: (5, 6, 8, 11, 15, 22, 31, 46), 2: (5, 7, 10, 14, 20, 30, 42)}
LIFTING_SIZES = {1: (384, 64), 2: (384, 64)}


class Link:
    """Code blocks with only the first `n_rows` parity columns sent."""

    def __init__(self, base_graph: int, lifting_size: int, n_rows: int) -> None:
        self.base_graph = base_graph
        self.lifting_size = lifting_size
        self.n_info_bits = N_INFO_COLUMNS[base_graph] * lifting_size
        self.n_sent = self.n_info_bits + (n_rows - 2) * lifting_size
        self.code_rate = self.n_info_bits / self.n_sent

    def receive(
        self, n_blocks: int, ebno_db: float, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Returns random words uint8[cb, K] and their LLRs float32[cb, N]."""
        info = rng.integers(0, 2, (n_blocks, self.n_info_bits), dtype=np.uint8)
        coded = ldpc.encode(info, self.base_graph, self.lifting_size)
        noise_var = 1 / (2 * self.code_rate * 10 ** (ebno_db / 10))
        noise = rng.standard_normal(coded.shape, dtype=np.float32) * np.float32(noise_var**0.5)
        llr = (1 - 2 * coded.astype(np.float32) + noise) * np.float32(2 / noise_var)
        llr[:, self.n_sent :] = 0
        return info, llr

    def failures(
        self, ebno_db: float, n_blocks: int, normalisations: list[float]
    ) -> npt.NDArray[np.int64]:
        """Counts the wrong blocks of each normalisation, all in the same noise."""
        rng = np.random.default_rng(SEED)
        count = np.zeros(len(normalisations), dtype=np.int64)
        for _ in range(0, n_blocks, BATCH):
            info, llr = self.receive(BATCH, ebno_db, rng)
            for index, normalisation in enumerate(normalisations):
                found = ldpc.decode(
                    llr, self.base_graph, self.lifting_size, N_ITERATIONS, normalisation
                )
                count[index] += (found.bits != info).any(axis=1).sum()
        return count

    def working_point_db(self) -> float:
        """Eb/N0 at which about one block in ten fails."""
        low, high = -1.0, 8.0
        while high - low > 0.05:
            middle = (low + high) / 2
            bler = self.failures(middle, 400, [0.75])[0] / 400
            low, high = (middle, high) if bler > TARGET_BLER else (low, middle)
        return high


def minimum_of_parabola(x: npt.NDArray[np.float64], failures: npt.NDArray[np.int64]) -> float:
    """Fits the points with up to three times the fewest failures."""
    near = failures <= 3 * max(int(failures.min()), 10)
    curve = np.polyfit(x[near], np.log(failures[near] + 0.5), 2)
    return float(np.clip(-curve[1] / (2 * curve[0]), x[0], x[-1]))


def main() -> None:
    n_blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    candidates = list(CANDIDATES)
    print("graph rows   Z  rate  Eb/N0 dB  failures by", *candidates, "(1/32) -> best", flush=True)
    for base_graph, all_rows in ROWS.items():
        for n_rows in all_rows:
            for z in LIFTING_SIZES[base_graph]:
                link = Link(base_graph, z, n_rows)
                ebno_db = link.working_point_db()
                failures = link.failures(ebno_db, n_blocks, [n / 32 for n in candidates])
                best = minimum_of_parabola(np.array(candidates, dtype=float), failures)
                head = f"{base_graph:5} {n_rows:4} {z:3} {link.code_rate:5.3f} {ebno_db:9.2f} "
                print(head, *failures.tolist(), f"-> {best:.1f}", flush=True)


if __name__ == "__main__":
    main()
