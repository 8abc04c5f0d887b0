"""`airan bench phy`: how fast Layer 1 is, beside Sionna on the same cores in the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from airan.bench import sionna_peer, slots
from airan.bench.rows import Row, hardware, row
from airan.bench.timing import Timing, interleaved, on_cores
from airan.core.errors import InvalidInputError, UnavailableError
from phy import PdschTransmitter, PuschConfig, PuschReceiver, ReceiverOptions

N_ITERATIONS = 10
_LDPC_BITS = 8424
_LDPC_RATE = 0.8
_LDPC_BATCH = 16


@dataclass(frozen=True)
class SpeedOptions:
    """How to measure.

    Attributes:
        rounds: runs of the peer; ours runs three times as often.
        sionna: measure Sionna as well.
        cores: cores for both; None: all that this process may use.
        names: the rows wanted, in the order of ROWS; all by default.
    """

    rounds: int = 5
    sionna: bool = True
    cores: int | None = None
    names: tuple[str, ...] | None = None


def measure(options: SpeedOptions) -> Iterator[Row]:
    """Yields each row as soon as it is measured.

    Raises:
        InvalidInputError: an unknown row, no rounds, or more cores than there are.
        NotFoundError: Sionna is wanted and absent.
        UnavailableError: a child process failed.
    """
    names = tuple(ROWS) if options.names is None else options.names
    for name in names:
        if name not in ROWS:
            raise InvalidInputError("row", f"must be one of {', '.join(ROWS)}, got {name}")
    if options.sionna:
        sionna_peer.require()
    with on_cores(options.cores) as n_cores:
        if options.sionna:
            sionna_peer.use_threads(n_cores)
        for name in names:
            yield ROWS[name](options, n_cores)


def _ldpc_decode(options: SpeedOptions, n_cores: int) -> Row:
    del n_cores
    blocks = slots.code_blocks(_LDPC_BITS, _LDPC_RATE, _LDPC_BATCH)
    if (blocks.decode(N_ITERATIONS).iterations != N_ITERATIONS).any():
        raise UnavailableError("the decoder stopped early, so there is nothing to compare")
    peer: Callable[[], object] | None = None
    if options.sionna:
        theirs = sionna_peer.LdpcPeer(blocks.n_bits, blocks.e_bits, 1, N_ITERATIONS)
        peer = partial(theirs.decode, blocks.llr)
    ours, other = interleaved(partial(blocks.decode, N_ITERATIONS), peer, options.rounds)
    n_megabits = _LDPC_BATCH * _LDPC_BITS / 1e6
    return _row("ldpc_decode", "Mb/s", ours, other, lambda seconds: n_megabits / seconds)


def _pusch_receive(options: SpeedOptions, n_cores: int) -> Row:
    config = slots.WHOLE_CARRIER
    tb, grid, noise_var = slots.received_slot(config)
    receive = PuschReceiver(
        config, options=ReceiverOptions(n_iterations=N_ITERATIONS, n_threads=n_cores)
    )
    found = receive(grid)
    if not (found.crc_ok and np.array_equal(found.tb, tb)):
        raise UnavailableError("the slot was not decoded")
    peer: Callable[[], object] | None = None
    if options.sionna:
        theirs = sionna_peer.PuschPeer(config, N_ITERATIONS)
        peer = partial(theirs.receive, grid[None], noise_var)
    ours, other = interleaved(partial(receive, grid), peer, options.rounds)
    return _row("pusch_receive", "ms", ours, other, lambda seconds: 1e3 * seconds)


def _pdsch_transmit(options: SpeedOptions, n_cores: int) -> Row:
    del n_cores
    config = slots.WHOLE_CARRIER_DOWN
    transmit = PdschTransmitter(config)
    tb = np.random.default_rng(1).integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    peer: Callable[[], object] | None = None
    if options.sionna:
        # Sionna has no PDSCH transmitter; that of PUSCH does the same work on the same block.
        theirs = sionna_peer.PuschPeer(
            PuschConfig(
                n_prb=config.n_prb,
                n_layers=config.n_layers,
                mcs_table=config.mcs_table,
                mcs_index=config.mcs_index,
            )
        )
        peer = partial(theirs.transmit, tb[None])
    ours, other = interleaved(partial(transmit, tb), peer, options.rounds)
    return _row("pdsch_transmit", "ms", ours, other, lambda seconds: 1e3 * seconds)


def _pusch_memory(options: SpeedOptions, n_cores: int) -> Row:
    del n_cores
    return _probed("pusch_memory", "MiB", "memory", options)


def _phy_import(options: SpeedOptions, n_cores: int) -> Row:
    del n_cores
    return _probed("phy_import", "s", "import", options)


def _phy_first_call(options: SpeedOptions, n_cores: int) -> Row:
    del n_cores
    return _probed("phy_first_call", "s", "first-call", replace(options, sionna=False))


ROWS: dict[str, Callable[[SpeedOptions, int], Row]] = {
    "ldpc_decode": _ldpc_decode,
    "pusch_receive": _pusch_receive,
    "pdsch_transmit": _pdsch_transmit,
    "pusch_memory": _pusch_memory,
    "phy_import": _phy_import,
    "phy_first_call": _phy_first_call,
}
"""What can be measured, by the name of its row."""


def _row(
    name: str,
    unit: str,
    ours: Timing,
    peer: Timing | None,
    figure: Callable[[float], float],
) -> Row:
    runs = f"median of {ours.n_runs} runs"
    if peer is None:
        return row(name, figure(ours.median_s), unit, f"{hardware()}; {runs}")
    runs = f"{runs}, the peer's of {peer.n_runs}"
    other = (sionna_peer.version(), figure(peer.median_s))
    return row(name, figure(ours.median_s), unit, f"{hardware()}; {runs}", other)


def _probed(name: str, unit: str, what: str, options: SpeedOptions) -> Row:
    """Medians over fresh processes; the first, which fills caches on disk, does not count."""
    with TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.npy"
        np.save(grid, slots.received_slot()[1])
        _probe(what, grid)
        ours = [_probe(what, grid) for _ in range(3)]
        runs = f"median of {len(ours)} processes"
        peer = None
        if options.sionna:
            theirs = [_probe(f"{what}-peer", grid) for _ in range(2)]
            peer = (sionna_peer.version(), median(theirs))
            runs += f", the peer's of {len(theirs)}"
    return row(name, median(ours), unit, f"{hardware()}; {runs}", peer)


def _probe(what: str, grid: Path) -> float:
    command = [sys.executable, "-m", "airan.bench.probe", what, str(grid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:]
        raise UnavailableError(f"the process that measures {what} failed: {' '.join(reason)}")
    return float(done.stdout)
