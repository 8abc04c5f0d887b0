"""What the front end of a slot launches, over which buffers: fixed by limits, so that it can be
captured in a CUDA graph once while the UEs' records change from slot to slot.

    generate_sequences -> estimate -> finish_estimates -> whiten -> equalise -> finish_equaliser

`whiten` is left out where no UE may ask for it. Blocks beyond a UE's own size, and UEs with an
empty record, leave at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy.checks import check_choice, check_integer
from phy.gpu import gold
from phy.gpu.front_end_filters import COLUMNS, TILE, WINDOW
from phy.gpu.front_end_layout import CHUNK_BITS, CHUNK_WORDS, UE_DESCRIPTOR, UE_RESULT
from phy.gpu.program import Buffer, Launch, Program

SYMBOLS_PER_BLOCK = 4
"""Data symbols that a thread of the equaliser takes: few enough to fill a GPU with one UE, many
enough for the channel to stay in the L1 cache."""

_GOLD_THREADS = 128
_N_SYMBOLS = 14
_BLOCK_SUBCARRIERS = 128
_MAX_SUBBANDS = 34
_WHITENING_STRIDE = 2 + 16 * 17
_PARTIALS = 20
_ANTENNAS = (2, 4, 8, 16)


@dataclass(frozen=True)
class FrontEndLimits:
    """The most that a slot may hold.

    Attributes:
        n_ues: UEs.
        n_prb: PRBs of one UE.
        n_rx: numbers of receive antennas that cells have, each 1 to 16.
        n_filter_sets: rows of the table of taps.
        n_samples: samples of all cells' grids.
        n_channel: values of all UEs' channel estimates.
        n_coded_bits: coded bits of one UE.
        n_llr: bytes of all UEs' soft bits.
        n_pilot_words: words of all UEs' packed pilots.
        n_scrambling_words: words of all UEs' scrambling sequences.
        has_irc: UEs may ask for whitening.
    """

    n_ues: int
    n_prb: int
    n_rx: tuple[int, ...]
    n_filter_sets: int
    n_samples: int
    n_channel: int
    n_coded_bits: int
    n_llr: int
    n_pilot_words: int
    n_scrambling_words: int
    has_irc: bool = False

    def __post_init__(self) -> None:
        check_integer("n_ues", self.n_ues, 1, 65535)
        check_integer("n_prb", self.n_prb, 1, 273)
        for n_rx in self.n_rx:
            check_choice("n_rx", n_rx, range(1, 17))
        check_integer("n_coded_bits", self.n_coded_bits, 1, gold.N_CHUNKS * CHUNK_BITS)
        for field in ("n_filter_sets", "n_samples", "n_channel", "n_llr", "n_pilot_words"):
            check_integer(field, getattr(self, field), 1, 2**31 - 1)
        check_integer("n_scrambling_words", self.n_scrambling_words, 1, 2**26)

    @property
    def kernel_antennas(self) -> tuple[int, ...]:
        """Numbers of antennas that kernels are needed for: `n_rx` rounded up."""
        return tuple(sorted({next(n for n in _ANTENNAS if n >= n_rx) for n_rx in self.n_rx}))


def front_end_program(limits: FrontEndLimits) -> Program:
    """Returns the front end of slots within `limits`.

    Inputs are ues (UE_DESCRIPTOR; a record of zeros holds no UE) and samples (float16, the cells'
    grids); taps are written when filters change. Outputs are llr and results (UE_RESULT). The stage
    "measure" feeds no other.
    """
    return Program(
        buffers={name: Buffer(*each) for name, each in _buffers(limits).items()},
        launches=_launches(limits),
        inputs=("ues", "samples"),
        outputs=("llr", "results"),
        constants={"jumps": gold.jumps(), "first_register": gold.first_register()},
    )


def _buffers(limits: FrontEndLimits) -> dict[str, tuple[tuple[int, ...], npt.DTypeLike]]:
    n_tiles, n_blocks, n_groups = _counts(limits)
    return {
        "ues": ((limits.n_ues,), UE_DESCRIPTOR),
        "samples": ((limits.n_samples, 2), np.float16),
        "pilots": ((limits.n_pilot_words,), np.uint32),
        "taps": ((limits.n_filter_sets, WINDOW, COLUMNS, 2), np.float16),
        "jumps": ((31, gold.N_CHUNKS), np.uint32),
        "first_register": ((gold.N_CHUNKS, CHUNK_WORDS), np.uint32),
        # The last LLRs' flips are read in two words.
        "scrambling": ((limits.n_scrambling_words + 1,), np.uint32),
        "channel": ((limits.n_channel, 2), np.float16),
        "whitening": ((limits.n_ues, _MAX_SUBBANDS, _WHITENING_STRIDE), np.float32),
        "estimate_sums": ((limits.n_ues, n_tiles, _PARTIALS), np.float32),
        "symbol_sums": ((limits.n_ues, n_groups, n_blocks, 2), np.float32),
        "llr": ((limits.n_llr,), np.int8),
        "results": ((limits.n_ues,), UE_RESULT),
    }


def _launches(limits: FrontEndLimits) -> tuple[Launch, ...]:
    prelude = f"#define ANTENNAS {sum(limits.kernel_antennas)}\n"
    n_tiles, n_blocks, n_groups = _counts(limits)
    n_ues = limits.n_ues
    # Two bits a pilot in up to 8 DM-RS symbols, which begin anywhere in a chunk; coded bits.
    n_chunks = 8 * (2 + 12 * limits.n_prb // CHUNK_BITS) + 1 + limits.n_coded_bits // CHUNK_BITS
    n_gold_blocks = -(-n_chunks // _GOLD_THREADS)
    inputs = ("ues", "samples", "pilots")
    out = [
        Launch(
            "generate",
            "gold",
            "generate_sequences",
            (n_gold_blocks, n_ues),
            _GOLD_THREADS,
            ("ues", "jumps", "first_register", "pilots", "scrambling", gold.N_CHUNKS),
        ),
        Launch(
            "estimate",
            "estimate",
            "estimate",
            (n_tiles, n_ues),
            128,
            (*inputs, "taps", "channel", "estimate_sums"),
        ),
        Launch(
            "estimate",
            "estimate",
            "finish_estimates",
            (n_ues,),
            32,
            ("ues", "estimate_sums", "results", n_tiles),
        ),
    ]
    if limits.has_irc:
        out += [
            Launch(
                "whiten",
                "covariance",
                f"whiten_{n_rx}",
                (max(1, limits.n_prb // 8), n_ues),
                128,
                (*inputs, "channel", "whitening"),
                prelude,
            )
            for n_rx in limits.kernel_antennas
        ]
    symbol_arguments = ("channel", "whitening", "scrambling", "llr", "symbol_sums", "results")
    out += [
        Launch(
            "equalise",
            "equalise",
            f"equalise_{n_rx}",
            (n_blocks, n_ues, n_groups),
            _BLOCK_SUBCARRIERS,
            ("ues", "samples", *symbol_arguments, SYMBOLS_PER_BLOCK),
            prelude,
        )
        for n_rx in limits.kernel_antennas
    ]
    out.append(
        Launch(
            "measure",
            "equalise",
            "finish_equaliser",
            (n_ues,),
            32,
            ("ues", "symbol_sums", "results", n_blocks, n_groups, SYMBOLS_PER_BLOCK),
            prelude,
        )
    )
    return tuple(out)


def _counts(limits: FrontEndLimits) -> tuple[int, int, int]:
    """Tiles of the estimator, blocks of the equaliser, and its groups of symbols."""
    n_subcarriers = 12 * limits.n_prb
    return (
        -(-n_subcarriers // TILE),
        -(-n_subcarriers // _BLOCK_SUBCARRIERS),
        -(-_N_SYMBOLS // SYMBOLS_PER_BLOCK),
    )
