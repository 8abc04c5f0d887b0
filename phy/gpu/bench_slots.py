"""Slots of many cells on the GPU, in TDD order at the radio's pace, timed.

Every cell has one UE over the whole carrier in each direction. The samples of a few simulated cells
lie in pinned memory before the run, for as many cells as it takes, and are copied in every uplink
slot; so do the transport blocks to be sent. The radio itself is not timed. All slots have the
number in the frame that the samples were made for, each in another frame.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.channel import Channel, ChannelConfig
from phy.gpu.bench_coding import WrongResultError
from phy.gpu.cell_group import CellGroup
from phy.gpu.device_group import GroupOptions, open_cell_group
from phy.gpu.downlink import downlink_limits
from phy.gpu.downlink_group import PDSCH_BUDGET_US, Assignment, DownlinkGroup
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from phy.gpu.outcome import Grant, SentSlot, SlotOutcome
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink import CellGrid, UplinkUe, uplink_limits
from phy.gpu.uplink_group import UplinkGroup
from phy.gpu.uplink_options import PUSCH_BUDGET_US
from phy.pdsch.config import PdschConfig
from phy.pusch.config import PuschConfig
from phy.pusch.transmitter import PuschTransmitter

PEAK_PUSCH = PuschConfig(n_prb=273, n_layers=4, n_rx=4, mcs_index=27, mcs_table=1, slot_number=4)
PEAK_PDSCH = PdschConfig(n_prb=273, n_layers=4, mcs_index=27, mcs_table=2, slot_number=4)
AVERAGE_PUSCH = replace(PEAK_PUSCH, n_prb=90, carrier_n_prb=273, n_layers=2, mcs_index=16)
AVERAGE_PDSCH = replace(PEAK_PDSCH, n_prb=90, carrier_n_prb=273, n_layers=2, mcs_index=16)
"""A third of the PRBs, half of the layers, a middle MCS: assumed for average load (RAN-only
networks use about a third of their compute)."""

_N_SIMULATED = 4
_SLOT_US = 500.0
_WARM_UP = 100
_SLOTS_PER_FRAME = 20


@dataclass(frozen=True)
class SlotRun:
    """What is run.

    Attributes:
        pusch, pdsch: every cell's UEs.
        n_cells: cells.
        n_sms: multiprocessors, None: all.
        gears_sms: of each gear, for `SlotBench`; none: one gear of `n_sms`.
        n_slots: slots of 0.5 ms, DDDSU.
        snr_db: of the simulated radio.
        is_copied_out: downlink grids are copied to the host.
        directions: "both", "pusch" or "pdsch": which slots of the pattern are used.
    """

    pusch: PuschConfig
    pdsch: PdschConfig
    n_cells: int
    n_sms: int | None = None
    n_slots: int = 10_000
    snr_db: float = 35.0
    is_copied_out: bool = True
    directions: str = "both"
    gears_sms: tuple[int | None, ...] = ()


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
class SlotTimes:
    """What a run gave for one direction.

    Attributes:
        channel: "pusch" or "pdsch".
        is_beside_other: the other direction had its slots too.
        cells: cells.
        n_prb, layers, mcs: of every cell's UE.
        n_sms: multiprocessors the run had.
        slots: slots of this direction, and of these the dropped ones, which the times leave out.
        dropped: slots that found all sides busy.
        budget_us: what the slot may take.
        kernels: on the GPU, without copies.
        with_copies: on the GPU, with what is copied in and out.
        latency: from the slot's arrival, or order, to its results on the host.
        prepare: the host's work before that.
        late_share: slots over the budget from arrival to results.
        bler: transport blocks not decoded; None for the PDSCH.
        iterations: mean of the decoder; None for the PDSCH.
        copied_in_bytes, copied_out_bytes: every slot.
    """

    channel: str
    is_beside_other: bool
    cells: int
    n_prb: int
    layers: int
    mcs: int
    n_sms: int
    slots: int
    dropped: int
    budget_us: float
    kernels: Times
    with_copies: Times
    latency: Times
    prepare: Times
    late_share: float
    bler: float | None
    iterations: float | None
    copied_in_bytes: int
    copied_out_bytes: int


@dataclass(frozen=True)
class TracedSlot:
    """One slot of a run.

    Attributes:
        index: in the run, the slots to warm up not counted.
        channel: "pusch" or "pdsch".
        due_s: when it had to start, on the host's monotonic clock.
        kernels_us: on the GPU, without copies; NaN if it was dropped.
        with_copies_us: with what is copied in and out; NaN if it was dropped.
        latency_us: from `due_s` to its results on the host; NaN if it was dropped.
    """

    index: int
    channel: str
    due_s: float
    kernels_us: float
    with_copies_us: float
    latency_us: float


def simulated(
    config: PuschConfig, snr_db: float, n: int = _N_SIMULATED, seed: int = 1
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.complex64]]]:
    """Returns (transport block, grid) of `n` simulated cells."""
    rng = np.random.default_rng(seed)
    channel = ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, snr_db=snr_db)
    out = []
    for _ in range(n):
        tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
        sent = PuschTransmitter(config)(tb, config.slot_number)
        out.append((tb, Channel(channel, rng)(sent)))
    return out


def time_slots(run: SlotRun) -> list[SlotTimes]:
    """Runs slots at the radio's pace; returns what it gave for each direction used.

    Raises:
        WrongResultError: a block that passed its CRC is not what was sent.
        GpuUnavailableError: no CuPy or no GPU.
    """
    work = _Work(run)
    try:
        work.warm_up()
        work.run_at_pace(run.n_slots)
        return [work.times(channel) for channel in work.channels]
    finally:
        work.group.close()


class SlotBench:
    """A cell group that runs slots at the radio's pace whenever it is told to."""

    def __init__(self, run: SlotRun) -> None:
        """Prepares everything; `n_slots` is not used.

        Raises:
            WrongResultError: a block that passed its CRC is not what was sent.
            GpuUnavailableError: no CuPy or no GPU.
        """
        self._work = _Work(run)
        try:
            self._work.warm_up()
        except BaseException:
            self._work.group.close()
            raise

    def trace(self, n_slots: int, gear: int = 0) -> list[TracedSlot]:
        """Runs so many slots in a gear; returns each of them, in the order they were due.

        Raises:
            WrongResultError: a block that passed its CRC is not what was sent.
        """
        work = self._work
        work.group.shift(gear)
        first = {channel: len(due) for channel, due in work.due_s.items()}
        work.run_at_pace(n_slots)
        return work.traced(first)

    def close(self) -> None:
        """Gives the GPU back."""
        self._work.group.close()


class _Work:
    """A cell group, what it is given in every slot, and what came of it."""

    def __init__(self, run: SlotRun) -> None:
        self.run = run
        pusch, pdsch, cells = run.pusch, run.pdsch, range(run.n_cells)
        self.ues = [UplinkUe(cell, pusch) for cell in cells]
        self.grants = [Grant(ue) for ue in self.ues]
        self.sent = simulated(pusch, run.snr_db, min(run.n_cells, _N_SIMULATED))
        receivers = [DownlinkUe(cell, pdsch) for cell in cells]
        self.receivers = receivers
        self.assignments = [Assignment(ue, None) for ue in receivers]
        uplink_grids = [CellGrid(pusch.n_rx, pusch.n_subcarriers // 12)] * run.n_cells
        downlink_grids = [SendGrid(4, pdsch.n_subcarriers // 12)] * run.n_cells
        self.group = open_cell_group(
            uplink_limits(uplink_grids, [self.ues], n_soft_buffers=2 * run.n_cells),
            downlink_limits(downlink_grids, [receivers], is_copied_out=run.is_copied_out),
            GroupOptions(gears_sms=run.gears_sms or (run.n_sms,)),
        )
        both = ("pusch", "pdsch")
        self.channels = both if run.directions == "both" else (run.directions,)
        self.received: list[SlotOutcome] = []
        self.sent_slots: list[SentSlot] = []
        self.prepare_us: dict[str, list[float]] = {"pusch": [], "pdsch": []}
        self.due_s: dict[str, list[float]] = {"pusch": [], "pdsch": []}
        self.prepared: set[str] = set()

    def warm_up(self) -> None:
        """Fills both sides with samples, lets filters be learnt, and checks what comes out."""
        uplink, number = self.group.uplink, self.run.pusch.slot_number
        for _ in range(N_SIDES):
            for cell, ue in enumerate(self.ues):
                _, grid = self.sent[cell % len(self.sent)]
                uplink.receive(cell, grid)
                uplink.learn(ue, grid, number)
            uplink.submit(number, self.grants)
            (outcome,) = uplink.collect(wait=True)
            self._check(outcome)
        rng, downlink = np.random.default_rng(2), _downlink(self.group)
        for _ in range(N_SIDES):
            for room in downlink.rooms(self.receivers):
                room[...] = rng.integers(0, 256, room.size, dtype=np.uint8)
            downlink.prepare(number, self.assignments)
            downlink.start()
            downlink.collect(wait=True)

    def run_at_pace(self, n_slots: int) -> None:
        """Starts a slot every 0.5 ms and collects what has ended meanwhile."""
        group = self.group
        n_ended = len(self.received) + len(self.sent_slots)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            for channel in self.channels:
                if channel not in self.prepared:  # by the run before, after its last slot
                    self._prepare(channel)
            n_started = 0
            start_s = time.perf_counter() + 1e-3
            for index in range(n_slots + _WARM_UP):
                due_s = start_s + index * _SLOT_US * 1e-6
                while time.perf_counter() < due_s:
                    self._collect(group)
                channel = "pusch" if group.kind(index) == "U" else "pdsch"
                if channel in self.channels:
                    self.due_s[channel].append(due_s)
                    self._half(channel).start(due_s)
                    self._prepare(channel)
                    n_started += 1
            while len(self.received) + len(self.sent_slots) - n_ended < n_started:
                self._collect(group)
        finally:
            gc.enable()
            gc.unfreeze()
        if "pusch" in self.channels:
            self._check(next(o for o in reversed(self.received) if o.tbs[0].crc_ok))

    def _prepare(self, channel: str) -> None:
        begun_s = time.perf_counter()
        frame = _SLOTS_PER_FRAME * len(self.due_s[channel])
        if channel == "pusch":
            self.group.uplink.prepare(frame + self.run.pusch.slot_number, self.grants)
        else:
            _downlink(self.group).prepare(frame + self.run.pdsch.slot_number, self.assignments)
        self.prepared.add(channel)
        self.prepare_us[channel].append((time.perf_counter() - begun_s) * 1e6)

    def _collect(self, group: CellGroup) -> None:
        collected = group.collect()
        self.received += collected.received
        self.sent_slots += collected.sent

    def _check(self, outcome: SlotOutcome) -> None:
        for cell, there in enumerate(outcome.tbs):
            tb, _ = self.sent[cell % len(self.sent)]
            if there.tb is not None and not np.array_equal(np.unpackbits(there.tb)[: tb.size], tb):
                raise WrongResultError(f"cell {cell} of slot {outcome.slot} gave another block")

    def _half(self, channel: str) -> UplinkGroup | DownlinkGroup:
        return self.group.uplink if channel == "pusch" else _downlink(self.group)

    def traced(self, first: Mapping[str, int]) -> list[TracedSlot]:
        """Returns every slot after the warm-up, in the order they were due.

        Args:
            first: of each channel, the first slot to look at, by number.
        """
        begun_s = min(due[first[name]] for name, due in self.due_s.items() if due[first[name] :])
        first_s = begun_s + _WARM_UP * _SLOT_US * 1e-6
        ended: list[tuple[str, SlotOutcome | SentSlot]] = [("pusch", one) for one in self.received]
        ended += [("pdsch", one) for one in self.sent_slots]
        out = []
        for channel, one in ended:
            due_s = self.due_s[channel][one.slot // _SLOTS_PER_FRAME]
            index = round((due_s - first_s) / (_SLOT_US * 1e-6))
            times = (one.kernels_us, one.with_copies_us, one.latency_us)
            out.append(TracedSlot(index, channel, due_s, *times))
        return sorted((one for one in out if one.index >= 0), key=lambda one: one.index)

    def times(self, channel: str) -> SlotTimes:
        """Summarises the slots of one direction."""
        run, is_uplink = self.run, channel == "pusch"
        config = run.pusch if is_uplink else run.pdsch
        budget_us = PUSCH_BUDGET_US if is_uplink else PDSCH_BUDGET_US
        received = self.received[_WARM_UP // 5 :]
        slots: Sequence[SlotOutcome | SentSlot] = received
        if not is_uplink:
            slots = self.sent_slots[_WARM_UP * 4 // 5 :]
        done = [each for each in slots if not np.isnan(each.kernels_us)]
        passed = received if is_uplink else []
        tbs = [tb for each in passed if not np.isnan(each.kernels_us) for tb in each.tbs]
        n_in, n_out = self._half(channel).copied_bytes
        return SlotTimes(
            channel=channel,
            is_beside_other=run.directions == "both",
            cells=run.n_cells,
            n_prb=config.n_prb,
            layers=config.n_layers,
            mcs=config.mcs_index,
            n_sms=self.group.uplink.n_sms,
            slots=len(slots),
            dropped=len(slots) - len(done),
            budget_us=budget_us,
            kernels=Times.of([each.kernels_us for each in done]),
            with_copies=Times.of([each.with_copies_us for each in done]),
            latency=Times.of([each.latency_us for each in done]),
            prepare=Times.of(self.prepare_us[channel]),
            late_share=sum(each.latency_us > budget_us for each in done) / len(done),
            bler=sum(not tb.crc_ok for tb in tbs) / len(tbs) if tbs else None,
            iterations=_mean_iterations(received) if is_uplink else None,
            copied_in_bytes=n_in,
            copied_out_bytes=n_out,
        )


def _mean_iterations(slots: Sequence[SlotOutcome]) -> float:
    return float(np.nanmean([each.iterations for each in slots]))


def _downlink(group: CellGroup) -> DownlinkGroup:
    if group.downlink is None:
        raise InvalidInputError("group", "only receives")
    return group.downlink


def slot_runs(n_slots: int, cells: Sequence[int] = (1, 8, 20, 40)) -> Iterator[SlotRun]:
    """The runs of the table, of so many cells. Forty cells' downlink grids are more than PCIe
    carries in a slot, so they stay on the GPU."""
    for pusch, pdsch in ((PEAK_PUSCH, PEAK_PDSCH), (AVERAGE_PUSCH, AVERAGE_PDSCH)):
        for n_cells in cells:
            is_copied = n_cells < 40
            yield SlotRun(pusch, pdsch, n_cells, None, n_slots, is_copied_out=is_copied)
    for n_cells in (20, 40):
        for channel in ("pusch", "pdsch"):
            run = SlotRun(PEAK_PUSCH, PEAK_PDSCH, n_cells, None, n_slots, directions=channel)
            if n_cells in cells:
                yield replace(run, is_copied_out=n_cells < 40)
    for n_sms in (16, 32, 60, 64, 92, 132):
        if 20 in cells:
            yield SlotRun(PEAK_PUSCH, PEAK_PDSCH, 20, n_sms, n_slots)
