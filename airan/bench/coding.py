"""`airan bench coding`: our LDPC decoder against Sionna's min-sum on the same LLRs, over AWGN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.bench import sionna_peer
from airan.bench.link import OURS, PEER
from airan.bench.rows import Row, hardware, row
from airan.bench.statistics import Tally, falls_below
from airan.core.errors import InvalidInputError
from phy.nr import ldpc
from phy.nr.base_graph import lifted_graph
from phy.nr.segmentation import segment

MAX_GAP_DB = 0.1
"""How much more SNR than Sionna's decoder ours may need."""

LEVELS = (0.1, 0.01)
"""Block error rates at which the decoders are compared."""

_STEP_DB = 0.2
_MAX_STEPS = 30
_BATCH = 25


@dataclass(frozen=True)
class Code:
    """One code: K' information bits of one code block in E coded bits."""

    n_bits: int
    code_rate: float

    @property
    def e_bits(self) -> int:
        """E, an even number for QPSK."""
        return 2 * round(self.n_bits / self.code_rate / 2)

    @property
    def base_graph(self) -> int:
        """1 or 2, as a transport block of this size and rate would have it."""
        return ldpc.select_base_graph(self.n_bits, self.code_rate)

    @property
    def lifting_size(self) -> int:
        """Z of the code block."""
        return segment(self.n_bits - 24, self.base_graph).lifting_size


CODES = (Code(8424, 0.8), Code(8424, 0.5), Code(3000, 1 / 3), Code(640, 0.6))
"""What is compared by default: both base graphs, short and long, high and low rate."""


@dataclass(frozen=True)
class CodingConfig:
    """How to compare.

    Attributes:
        codes: the codes.
        n_iterations: of both decoders.
        n_blocks: most blocks a point.
        max_errors: a decoder's point ends after so many block errors.
        schedule: Sionna's, "flooding" (its default) or "layered"; ours is layered.
        seed: of everything random.

    Raises:
        InvalidInputError: a number below 1, a negative seed, or an unknown schedule.
    """

    codes: tuple[Code, ...] = CODES
    n_iterations: int = 10
    n_blocks: int = 1000
    max_errors: int = 100
    schedule: str = "flooding"
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("n_iterations", "n_blocks", "max_errors"):
            if getattr(self, name) < 1:
                raise InvalidInputError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.schedule not in sionna_peer.SCHEDULES:
            raise InvalidInputError(
                "schedule",
                f"must be one of {', '.join(sionna_peer.SCHEDULES)}, got {self.schedule}",
            )
        if self.seed < 0:
            raise InvalidInputError("seed", f"must not be negative, got {self.seed}")


@dataclass(frozen=True)
class CodingGap:
    """What one code's two curves say.

    Attributes:
        n_bits: K'.
        code_rate: K' / E.
        base_graph: 1 or 2.
        n_iterations: of both decoders.
        bler: the block error rate at which they are compared.
        snr_db: Es/N0 of QPSK at which ours falls below it; None if it does not.
        peer: Sionna with its version and schedule.
        peer_snr_db: the same of Sionna's min-sum.
        gap_db: how much more ours needs; negative if it needs less.
        ok: the gap is at most 0.1 dB.
    """

    n_bits: int
    code_rate: float
    base_graph: int
    n_iterations: int
    bler: float
    snr_db: float | None
    peer: str
    peer_snr_db: float | None
    gap_db: float | None
    ok: bool

    def row(self, config: CodingConfig) -> Row:
        """As a row: the SNR needed."""
        name = f"ldpc K'={self.n_bits} R={self.code_rate:.2f} BLER {self.bler:g}"
        measured_on = (
            f"{hardware()}; simulated AWGN, {self.n_iterations} iterations, "
            f"up to {config.n_blocks} code blocks a point"
        )
        return row(name, self.snr_db, "dB", measured_on, (self.peer, self.peer_snr_db))


def compare(
    config: CodingConfig, on_point: Callable[[str], None] = lambda _: None
) -> Iterator[CodingGap]:
    """Yields one result for each code and level.

    Raises:
        NotFoundError: Sionna is absent.
    """
    sionna_peer.require()
    for code in config.codes:
        curves = _curves(code, config, on_point)
        for level in LEVELS:
            ours, theirs = (falls_below(curves[name], level) for name in (OURS, PEER))
            gap = None if ours is None or theirs is None else ours - theirs
            yield CodingGap(
                n_bits=code.n_bits,
                code_rate=code.code_rate,
                base_graph=code.base_graph,
                n_iterations=config.n_iterations,
                bler=level,
                snr_db=ours,
                peer=f"{sionna_peer.version()}, {config.schedule} min-sum",
                peer_snr_db=theirs,
                gap_db=gap,
                ok=gap is not None and gap <= MAX_GAP_DB,
            )


def _curves(
    code: Code, config: CodingConfig, on_point: Callable[[str], None]
) -> dict[str, list[tuple[float, float]]]:
    """(SNR, BLER) of both decoders, from capacity upwards until both are below every level."""
    peer = sionna_peer.LdpcPeer(
        code.n_bits, code.e_bits, code.base_graph, config.n_iterations, config.schedule
    )
    curves: dict[str, list[tuple[float, float]]] = {OURS: [], PEER: []}
    capacity_db = 10 * math.log10(2 ** (2 * code.code_rate) - 1)
    for step in range(_MAX_STEPS):
        snr_db = capacity_db + step * _STEP_DB
        rates = _error_rates(code, snr_db, config, peer)
        for name, rate in rates.items():
            curves[name].append((snr_db, rate))
        shown = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
        on_point(f"K'={code.n_bits} R={code.code_rate:.2f} at {snr_db:.1f} dB: {shown}")
        if max(rates.values()) < min(LEVELS):
            break
    return curves


def _error_rates(
    code: Code, snr_db: float, config: CodingConfig, peer: sionna_peer.LdpcPeer
) -> dict[str, float]:
    decoders: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]] = {
        OURS: lambda llr: _decode(llr, code, config.n_iterations),
        PEER: peer.decode,
    }
    tallies = {name: Tally(config.max_errors) for name in decoders}
    for start in range(0, config.n_blocks, _BATCH):
        wanting = [name for name in decoders if not tallies[name].done]
        if not wanting:
            break
        n = min(_BATCH, config.n_blocks - start)
        # The same blocks and noise at every SNR.
        rng = np.random.default_rng([config.seed, code.n_bits, code.e_bits, start])
        bits = rng.integers(0, 2, (n, code.n_bits), dtype=np.uint8)
        noise = rng.standard_normal((n, code.e_bits), dtype=np.float32)
        llr = _llr(peer.encode(bits), noise, snr_db)
        for name in wanting:
            wrong = (decoders[name](llr) != bits).any(axis=1)
            tallies[name].add(n, int(wrong.sum()))
    return {name: tally.rate for name, tally in tallies.items()}


def _llr(
    coded: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32], snr_db: float
) -> npt.NDArray[np.float32]:
    """LLRs of one axis of QPSK: amplitude 1/sqrt(2), noise variance N0/2."""
    n0 = 10 ** (-snr_db / 10)
    received = (1 - 2 * coded.astype(np.float32)) * np.sqrt(0.5) + noise * np.sqrt(n0 / 2)
    llr: npt.NDArray[np.float32] = (received * (4 * np.sqrt(0.5) / n0)).astype(np.float32)
    return llr


def _decode(llr: npt.NDArray[np.float32], code: Code, n_iterations: int) -> npt.NDArray[np.uint8]:
    graph, lifting_size = code.base_graph, code.lifting_size
    n_filler = lifted_graph(graph, lifting_size).n_info_bits - code.n_bits
    soft = ldpc.rate_recover(llr, code.e_bits, 0, 1, graph, lifting_size, n_filler)
    bits: npt.NDArray[np.uint8] = ldpc.decode(soft, graph, lifting_size, n_iterations).bits
    return bits[:, : code.n_bits]
