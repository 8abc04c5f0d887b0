"""Speed of the coding chain's kernels on the present GPU: `python -m phy.gpu.bench_coding`.

Every kernel is first compared with its twin on random data. Times are medians of CUDA events around
launches that follow each other; data is random and fills the chip.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import AiranError
from phy.gpu import ldpc_twin, receive, receive_twin, transmit
from phy.gpu.ldpc import LdpcDecoder, decoder_control
from phy.gpu.ldpc_layout import LdpcLayout, ldpc_layout, llr_units_of_16
from phy.gpu.module import require_cupy
from phy.gpu.transport import plan_reception
from phy.nr import layer_mapping, ldpc, modulation, sch, tbs
from phy.nr.ldpc_decoder import best_normalisation
from phy.nr.mcs import lookup
from phy.nr.sch import SchConfig

_WARM_UPS = 3
_REPEATS = 15
_UNIQUE_BLOCKS = 24
_N_SYMBOLS = 12  # that carry data, of a slot's 14


@dataclass(frozen=True)
class Timing:
    """One line of the table.

    Attributes:
        name: what was timed, with its sizes.
        microseconds: median of one launch.
        gbps: information bits, or what the name says, over that time.
        note: what else there is to say.
    """

    name: str
    microseconds: float
    gbps: float
    note: str = ""


class WrongResultError(AiranError):
    """A kernel did not do what its twin does, or a slot gave another block than was sent."""


def median_microseconds(launch: Callable[[], None], launches: int = 1) -> float:
    """Returns the median time of one call of `launch`, `launches` of them between two events."""
    cupy = require_cupy()
    for _ in range(_WARM_UPS):
        launch()
    times = []
    for _ in range(_REPEATS):
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record()
        for _ in range(launches):
            launch()
        last.record()
        last.synchronize()
        times.append(cupy.cuda.get_elapsed_time(first, last) * 1e3 / launches)
    return float(np.median(times))


@dataclass(frozen=True)
class DecodeCase:
    """What to decode.

    Attributes:
        base_graph: 1 or 2.
        lifting_size: Z.
        n_rows: base-graph rows in use.
        noise_std: of the noise on bits of amplitude 1.
        n_blocks: code blocks in a launch.
        n_iterations: most iterations.
        early_stop: stop a block as soon as its checks hold.
    """

    base_graph: int
    lifting_size: int
    n_rows: int
    noise_std: float
    n_blocks: int = 2640
    n_iterations: int = 10
    early_stop: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        n_info = ldpc_layout(self.base_graph, self.lifting_size, 4).graph.n_info_columns
        rate = n_info / (n_info - 2 + self.n_rows)
        stop = "early stop" if self.early_stop else f"{self.n_iterations} iterations"
        sizes = f"BG{self.base_graph} Z={self.lifting_size} R={rate:.2f}"
        return f"decode {sizes}, {self.n_blocks} blocks, {stop}"


DECODE_CASES = (
    DecodeCase(1, 384, 8, 0.5),
    DecodeCase(1, 384, 8, 0.5, n_iterations=5),
    DecodeCase(1, 384, 8, 0.42, early_stop=True),
    DecodeCase(1, 384, 5, 0.4),
    DecodeCase(1, 384, 5, 0.33, early_stop=True),
    DecodeCase(1, 384, 10, 0.55),
    DecodeCase(1, 384, 24, 0.8),
    DecodeCase(1, 384, 46, 1.1),
    DecodeCase(1, 320, 8, 0.5),
    DecodeCase(1, 256, 8, 0.5),
    DecodeCase(1, 208, 8, 0.5),
    DecodeCase(1, 192, 8, 0.5),
    DecodeCase(1, 128, 8, 0.5),
    DecodeCase(1, 64, 8, 0.5, 10560),
    DecodeCase(2, 384, 10, 0.6),
    DecodeCase(2, 384, 42, 1.3),
    DecodeCase(2, 64, 10, 0.6, 10560),
    DecodeCase(1, 384, 8, 0.5, 264),
    DecodeCase(1, 384, 8, 0.5, 10560),
)


def decode_timing(case: DecodeCase, layout: LdpcLayout | None = None) -> Timing:
    """Checks the decoder on a few code blocks, then times it.

    Raises:
        WrongResultError: it does not do what its twin does.
        GpuUnavailableError: no CuPy or no GPU.
    """
    cupy = require_cupy()
    layout = layout or ldpc_layout(case.base_graph, case.lifting_size, case.n_rows)
    decoder = LdpcDecoder(case.base_graph, case.lifting_size, case.n_rows, layout=layout)
    llr = _noisy_blocks(case, layout)
    norm = best_normalisation(case.base_graph, case.n_rows)
    rows = np.zeros((_UNIQUE_BLOCKS, 16 * llr_units_of_16(layout.graph)), np.int8)
    rows[:, : llr.shape[1]] = llr
    pool = cupy.tile(cupy.asarray(rows), (-(-case.n_blocks // _UNIQUE_BLOCKS), 1))
    llr_at = cupy.arange(case.n_blocks, dtype=cupy.int32) * llr_units_of_16(layout.graph)
    n_words = -(-layout.graph.n_info_bits // 32)
    found = (
        cupy.zeros((case.n_blocks, n_words), cupy.uint32),
        cupy.zeros(case.n_blocks, cupy.uint8),
        cupy.zeros(case.n_blocks, cupy.int32),
    )
    stop = case.early_stop
    control = decoder_control(case.n_blocks, case.n_iterations, norm, early_stop=stop)
    on_device = cupy.asarray(control)

    def launch() -> None:
        decoder.launch(pool, llr_at, on_device, *found)

    launch()
    expected = ldpc_twin.decode(llr, layout, case.n_iterations, norm, early_stop=stop)
    for ours, twins in zip(found, vars(expected).values(), strict=True):
        _check(case.name, cupy.asnumpy(ours[:_UNIQUE_BLOCKS]), twins)
    microseconds = median_microseconds(launch)
    gbps = case.n_blocks * layout.graph.n_info_bits / microseconds / 1e3
    iterations = float(expected.iterations.mean())
    right = int(expected.parity_ok.sum())
    note = f"{iterations:.1f} iterations, {right} of {_UNIQUE_BLOCKS} right"
    return Timing(case.name, microseconds, gbps, note)


def variant_timings() -> Iterator[Timing]:
    """Times layouts of the decoder that might be better than the one chosen."""
    headline = DECODE_CASES[0]
    base = ldpc_layout(headline.base_graph, headline.lifting_size, headline.n_rows)
    for share in range(5):
        timing = decode_timing(headline, replace(base, sums_of_four=share))
        yield replace(timing, note=f"{share} of 4 edges by sums")
    for rows in (5, 7):
        timing = decode_timing(headline, replace(base, n_register_rows=rows))
        yield replace(timing, note=f"{rows} rows in registers")
    for z, blocks, rows in ((256, 1, 8), (256, 2, 4), (192, 2, 8), (192, 3, 4), (128, 3, 8)):
        case = replace(headline, lifting_size=z)
        layout = replace(ldpc_layout(1, z, 8), blocks_per_sm=blocks, n_register_rows=rows)
        timing = decode_timing(case, layout)
        yield replace(timing, note=f"{blocks} blocks a multiprocessor, {rows} rows in registers")


def peak_config(table: int, mcs_index: int, n_layers: int = 4, n_prb: int = 273) -> SchConfig:
    """A transport block that fills a slot of a peak cell."""
    mcs = lookup(table, mcs_index)
    n_re = 12 * _N_SYMBOLS * n_prb
    return SchConfig(
        tb_size_bits=tbs.size_from_re(n_re, mcs.modulation_order, mcs.code_rate, n_layers),
        code_rate=mcs.code_rate,
        modulation_order=mcs.modulation_order,
        n_layers=n_layers,
        n_coded_bits=n_re * mcs.modulation_order * n_layers,
    )


def transmit_timings(n_cells: int, config: SchConfig) -> Iterator[Timing]:
    """Checks and times everything from packed transport blocks to layer-mapped symbols.

    Raises:
        WrongResultError: the symbols are not those of the array path.
        GpuUnavailableError: no CuPy or no GPU.
    """
    cupy = require_cupy()
    rng = np.random.default_rng(1)
    plan = transmit.plan_transmission([config] * n_cells)
    tb = [rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8) for _ in range(n_cells)]
    sequences = [rng.integers(0, 2, config.n_coded_bits, dtype=np.uint8) for _ in range(n_cells)]
    tables = transmit.to_device(plan)
    packed = cupy.asarray(transmit.pack_tbs(tb, plan))
    scrambling = cupy.asarray(transmit.pack_scrambling(sequences, plan))
    for half in (True, False):
        points = transmit.constellations(half=half)
        symbols = cupy.zeros((plan.n_symbols, *points.shape[1:]), points.dtype)
        encoder = transmit.Encoder(plan, half=half)

        def launch(encoder: Any = encoder, symbols: Any = symbols) -> None:
            encoder.launch(packed, tables, scrambling, symbols)

        launch()
        sent = modulation.map(sch.encode(tb[-1], config) ^ sequences[-1], config.modulation_order)
        expected = layer_mapping.map(sent, config.n_layers).reshape(-1)
        if half:
            expected = expected.view(np.float32).reshape(-1, 2).astype(np.float16)
        name = f"encode to {'binary16' if half else 'complex64'}, {n_cells} cells"
        _check(name, cupy.asnumpy(symbols[-len(expected) :]), expected)
        microseconds = median_microseconds(launch, launches=4)
        gbps = n_cells * config.tb_size_bits / microseconds / 1e3
        yield Timing(name, microseconds, gbps, f"{plan.n_blocks} code blocks")


def receive_timings(n_cells: int, config: SchConfig) -> Iterator[Timing]:
    """Checks and times rate recovery, decoding and CRC checks, one by one and together.

    Raises:
        WrongResultError: a kernel does not do what its twin does, or a block does not come back.
        GpuUnavailableError: no CuPy or no GPU.
    """
    cupy = require_cupy()
    rng = np.random.default_rng(2)
    plan = plan_reception([config] * n_cells)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    sent = 1.0 - 2.0 * sch.encode(tb, config)
    noisy = 24 * (sent + 0.3 * rng.standard_normal(sent.size))
    one = np.clip(np.rint(noisy), -127, 127).astype(np.int8)
    one = np.concatenate([one, np.zeros(-one.size % 16, np.int8)])
    chain = _ReceiveChain(plan, cupy.asarray(np.tile(one, n_cells)))
    chain.recover()
    soft = np.zeros(plan_reception([config]).n_soft_bytes, np.int8)
    receive_twin.rate_recover(one, plan_reception([config]), soft)
    _check("rate_recover", cupy.asnumpy(chain.soft[-soft.size :]), soft)
    chain.decode()
    chain.check()
    packed = np.packbits(tb)
    at = plan.receptions[-1].tb_at
    _check("transport block", cupy.asnumpy(chain.tb_bytes[at : at + packed.size]), packed)
    _check("crc_ok", cupy.asnumpy(chain.crc_ok), np.ones(n_cells, np.uint8))
    iterations = float(chain.iterations.mean())
    note = f"{plan.n_blocks} code blocks, {iterations:.1f} iterations"
    for name, launch in (
        ("rate_recover", chain.recover),
        ("decode, early stop", chain.decode),
        ("check_and_join", chain.check),
        ("receive chain", chain.all),
    ):
        microseconds = median_microseconds(launch, launches=4)
        gbps = n_cells * config.tb_size_bits / microseconds / 1e3
        yield Timing(f"{name}, {n_cells} cells", microseconds, gbps, note)


class _ReceiveChain:
    """A plan's arrays on the device and its launches."""

    def __init__(self, plan: Any, llr: Any) -> None:
        cupy = require_cupy()
        self.llr = llr
        self.tables = receive.to_device(plan)
        self.soft = cupy.zeros(plan.n_soft_bytes, cupy.int8)
        self.bits = cupy.zeros(plan.n_words, cupy.uint32)
        self.parity_ok = cupy.zeros(plan.n_blocks, cupy.uint8)
        self.iterations = cupy.zeros(plan.n_blocks, cupy.int32)
        self.tb_bytes = cupy.zeros(plan.n_tb_bytes, cupy.uint8)
        self.block_ok = cupy.zeros(plan.n_blocks, cupy.uint8)
        self.crc_ok = cupy.zeros(len(plan.receptions), cupy.uint8)
        self._recovery = receive.RateRecovery(plan.longest_e_bits)
        self._crc = receive.CrcCheck(len(plan.receptions))
        self._launches = [self._decoder(group) for group in plan.groups]

    def _decoder(self, group: Any) -> Callable[[], None]:
        cupy = require_cupy()
        decoder = LdpcDecoder(group.base_graph, group.lifting_size, group.n_rows)
        n_blocks = group.blocks.stop - group.blocks.start
        norm = best_normalisation(group.base_graph, group.n_rows)
        control = cupy.asarray(decoder_control(n_blocks, 10, norm, early_stop=True))
        arrays = (
            self.tables.llr_at[group.blocks],
            control,
            self.bits[group.words].reshape(n_blocks, -1),
            self.parity_ok[group.blocks],
            self.iterations[group.blocks],
        )
        return lambda: decoder.launch(self.soft, *arrays)

    def recover(self) -> None:
        self._recovery.launch(self.llr, self.tables, self.soft)

    def decode(self) -> None:
        for launch in self._launches:
            launch()

    def check(self) -> None:
        outputs = (self.tb_bytes, self.block_ok, self.crc_ok)
        self._crc.launch(self.bits, self.parity_ok, self.tables, *outputs)

    def all(self) -> None:
        self.recover()
        self.decode()
        self.check()


def bench_coding(cases: Sequence[DecodeCase] = DECODE_CASES, n_cells: int = 20) -> Iterator[Timing]:
    """Yields all timings of the coding chain.

    Raises:
        WrongResultError: a kernel does not do what its twin does.
        GpuUnavailableError: no CuPy or no GPU.
    """
    for case in cases:
        yield decode_timing(case)
    yield from receive_timings(n_cells, peak_config(1, 27))
    yield from transmit_timings(n_cells, peak_config(2, 27))


def table_line(timing: Timing) -> str:
    """One line of the table."""
    return (
        f"{timing.name:58s} {timing.microseconds:10.1f} us {timing.gbps:8.2f} Gb/s  {timing.note}"
    )


def _noisy_blocks(case: DecodeCase, layout: LdpcLayout) -> npt.NDArray[np.int8]:
    """int8[_UNIQUE_BLOCKS, N]: LLRs of random code words in noise."""
    rng = np.random.default_rng(3)
    info = rng.integers(0, 2, (_UNIQUE_BLOCKS, layout.graph.n_info_bits), dtype=np.uint8)
    sent = ldpc.encode(info, case.base_graph, case.lifting_size)
    noisy = 24 * (1 - 2.0 * sent + case.noise_std * rng.standard_normal(sent.shape))
    noisy[:, (layout.graph.n_info_columns - 2 + case.n_rows) * case.lifting_size :] = 0
    llr: npt.NDArray[np.int8] = np.clip(np.rint(noisy), -127, 127).astype(np.int8)
    return llr


def _check(name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    if not np.array_equal(found, expected):
        n_wrong = int(np.count_nonzero(found != expected))
        raise WrongResultError(f"{name}: {n_wrong} of {expected.size} values are not the twin's")


def main() -> None:
    """Prints the table; with --variants also other layouts, with --json rows instead."""
    timings = bench_coding()
    for timing in timings:
        print(
            json.dumps(asdict(timing)) if "--json" in sys.argv else table_line(timing), flush=True
        )
    if "--variants" in sys.argv:
        for timing in variant_timings():
            print(table_line(timing), flush=True)


if __name__ == "__main__":
    main()
