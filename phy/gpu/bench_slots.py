"""Slots of many cells on the GPU, one after the other at the radio's pace, timed.

Every cell has one UE over the whole carrier. The samples of a few simulated cells lie in pinned
memory before the run, for as many cells as it takes, and are copied in every slot; the radio itself
is not timed. All slots have the number in the frame that the samples were made for.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airan.core.errors import AiranError
from phy.channel import Channel, ChannelConfig
from phy.gpu.cell_group import CellGroup, GroupOptions
from phy.gpu.decode_plan import DecoderEffort
from phy.gpu.device_group import open_cell_group
from phy.gpu.outcome import Grant, SlotOutcome, UeStatus
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink import CellGrid, UplinkUe, uplink_limits
from phy.pusch.config import PuschConfig
from phy.pusch.transmitter import PuschTransmitter

PEAK_PUSCH = PuschConfig(n_prb=273, n_layers=4, n_rx=4, mcs_index=27, mcs_table=1, slot_number=4)
AVERAGE_PUSCH = replace(PEAK_PUSCH, n_prb=90, carrier_n_prb=273, n_layers=2, mcs_index=16)
"""A third of the PRBs, half of the layers: what networks carry on average (SoftBank: 30 to 33%)."""

_N_SIMULATED = 4
_SLOT_US = 500.0


class WrongBlockError(AiranError):
    """A timed slot gave a wrong transport block."""


@dataclass(frozen=True)
class UplinkRun:
    """What is run.

    Attributes:
        config: every cell's UE.
        n_cells: cells.
        n_sms: multiprocessors, None: all.
        n_slots: uplink slots that are timed.
        spacing_us: between uplink slots: 2,500 for DDDSU at 30 kHz.
        n_iterations: most iterations of the decoder.
        snr_db: of the simulated radio.
    """

    config: PuschConfig
    n_cells: int
    n_sms: int | None = None
    n_slots: int = 2000
    spacing_us: float = 5 * _SLOT_US
    n_iterations: int = 10
    snr_db: float = 35.0


@dataclass(frozen=True)
class Times:
    """Of many slots, in us.

    Attributes:
        p50_us, p99_us, p999_us, max_us: percentiles.
    """

    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @classmethod
    def of(cls, us: Sequence[float]) -> Times:
        """Summarises."""
        p50, p99, p999 = np.percentile(us, (50, 99, 99.9), method="higher").tolist()
        return cls(p50, p99, p999, max(us))


@dataclass(frozen=True)
class UplinkTimes:
    """What a run gave.

    Attributes:
        run: what was run.
        n_sms: multiprocessors it had.
        kernels: on the GPU, without copies.
        with_copies: on the GPU, with samples copied in and results out.
        latency: from the slot's arrival to its results on the host, host's work and all.
        prepare: the host's work before the samples arrive.
        late_share: slots over the budget of 1,250 us from arrival to results.
        bler: transport blocks not decoded.
        iterations: mean of the decoder.
        copied_in_bytes, copied_out_bytes: every slot.
    """

    run: UplinkRun
    n_sms: int
    kernels: Times
    with_copies: Times
    latency: Times
    prepare: Times
    late_share: float
    bler: float
    iterations: float
    copied_in_bytes: int
    copied_out_bytes: int


def simulated(run: UplinkRun, seed: int = 1) -> list[tuple[npt.NDArray, npt.NDArray]]:  # type: ignore[type-arg]
    """Returns (transport block, grid) of a few cells."""
    rng = np.random.default_rng(seed)
    config = run.config
    channel = ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, snr_db=run.snr_db)
    out = []
    for _ in range(min(run.n_cells, _N_SIMULATED)):
        tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
        sent = PuschTransmitter(config)(tb, config.slot_number)
        out.append((tb, Channel(channel, rng)(sent)))
    return out


def time_uplink(run: UplinkRun) -> UplinkTimes:
    """Runs slots at the radio's pace.

    Raises:
        WrongBlockError: a block that passed its CRC is not what was sent.
        GpuUnavailableError: no CuPy or no GPU.
    """
    cells = [CellGrid(run.config.n_rx, run.config.n_subcarriers // 12)] * run.n_cells
    ues = [UplinkUe(cell, run.config) for cell in range(run.n_cells)]
    sent = simulated(run)
    limits = uplink_limits(cells, [ues], n_soft_buffers=2 * run.n_cells)
    options = GroupOptions(effort=DecoderEffort(run.n_iterations))
    group = open_cell_group(limits, n_sms=run.n_sms, options=options)
    try:
        for _ in range(N_SIDES):
            for cell in range(run.n_cells):
                _, grid = sent[cell % len(sent)]
                group.receive(cell, grid)
                group.learn(ues[cell], grid, run.config.slot_number)
            group.submit(run.config.slot_number, [Grant(ue) for ue in ues])
            (outcome,) = group.collect(wait=True)
            _check(outcome, [tb for tb, _ in sent])
        outcomes, prepares = _paced(group, [Grant(ue) for ue in ues], run)
        _check(outcomes[-1], [tb for tb, _ in sent])
        return _summary(run, group, outcomes, prepares)
    finally:
        group.close()


def _paced(
    group: CellGroup, grants: list[Grant], run: UplinkRun
) -> tuple[list[SlotOutcome], list[float]]:
    outcomes: list[SlotOutcome] = []
    prepares: list[float] = []
    number = run.config.slot_number
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        group.prepare(number, grants)
        start_s = time.perf_counter() + 1e-3
        for index in range(run.n_slots):
            arrival_s = start_s + index * run.spacing_us * 1e-6
            while time.perf_counter() < arrival_s:
                pass
            group.start(arrival_s)
            begun_s = time.perf_counter()
            group.prepare(number, grants)
            prepares.append((time.perf_counter() - begun_s) * 1e6)
            outcomes += group.collect(wait=True)
    finally:
        gc.enable()
        gc.unfreeze()
    return outcomes, prepares


def _check(outcome: SlotOutcome, tbs: Sequence[npt.NDArray[np.uint8]]) -> None:
    for index, there in enumerate(outcome.tbs):
        tb = tbs[index % len(tbs)]
        if there.tb is not None and not np.array_equal(np.unpackbits(there.tb)[: tb.size], tb):
            raise WrongBlockError(f"cell {index} of slot {outcome.slot} gave another block")


def _summary(
    run: UplinkRun, group: CellGroup, outcomes: Sequence[SlotOutcome], prepares: Sequence[float]
) -> UplinkTimes:
    received = [each for each in outcomes if each.kernels_us == each.kernels_us]
    tbs = [tb for each in received for tb in each.tbs]
    late = sum(each.tbs[0].status is UeStatus.LATE for each in received)
    n_in, n_out = group.copied_bytes
    return UplinkTimes(
        run=run,
        n_sms=group.n_sms,
        kernels=Times.of([each.kernels_us for each in received]),
        with_copies=Times.of([each.with_copies_us for each in received]),
        latency=Times.of([each.latency_us for each in received]),
        prepare=Times.of(prepares),
        late_share=late / len(received),
        bler=sum(not tb.crc_ok for tb in tbs) / len(tbs),
        iterations=float(np.mean([each.iterations for each in received])),
        copied_in_bytes=n_in,
        copied_out_bytes=n_out,
    )


def uplink_runs(n_slots: int) -> Iterator[UplinkRun]:
    """The runs of the table."""
    for config in (PEAK_PUSCH, AVERAGE_PUSCH):
        for n_cells in (1, 8, 20, 40):
            yield UplinkRun(config, n_cells, n_slots=n_slots)
    for n_sms in (16, 32, 60, 64, 92, 132):
        yield UplinkRun(PEAK_PUSCH, 20, n_sms, n_slots=n_slots)
