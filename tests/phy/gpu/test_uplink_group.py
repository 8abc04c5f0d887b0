"""The slot runtime over kernels emulated on the CPU: deadlines, HARQ, shedding and faults."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.gpu import uplink
from phy.gpu.device_group import open_cell_group
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.front_end_layout import UE_DESCRIPTOR
from phy.gpu.module import GpuUnavailableError, require_cupy
from phy.gpu.outcome import Alarm, Grant, UeStatus
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink import CellGrid, UplinkUe
from phy.gpu.uplink_group import UplinkGroup
from phy.gpu.uplink_options import UplinkOptions
from phy.gpu.uplink_tuning import UplinkTuning
from tests.phy.gpu.emulated_pipeline import Clock, EmulatedPipeline

GRIDS = [CellGrid(n_rx=2, n_prb=12), CellGrid(n_rx=4, n_prb=14)]
UES = [
    UplinkUe(0, PuschConfig(n_prb=12, n_layers=1, n_rx=2, mcs_index=16, rnti=11)),
    UplinkUe(1, PuschConfig(n_prb=14, n_layers=2, n_rx=4, mcs_index=10, rnti=12)),
]


class Bench:
    """An uplink group over emulated kernels, and a radio in front of it."""

    def __init__(self, rng, slots=None, **options) -> None:
        self.rng = rng
        self.clock = Clock()
        self.alarms: list[Alarm] = []
        self.pipelines: list[EmulatedPipeline] = []
        limits = uplink.uplink_limits(GRIDS, slots or [UES], n_soft_buffers=4, spare_rows=True)
        program = uplink.uplink_program(limits)

        def make() -> EmulatedPipeline:
            self.pipelines.append(EmulatedPipeline(program, self.clock))
            return self.pipelines[-1]

        self.group = UplinkGroup(
            limits,
            make,
            UplinkOptions(**options),
            on_alarm=self.alarms.append,
            now_s=self.clock,
        )

    @property
    def pipeline(self) -> EmulatedPipeline:
        return self.pipelines[-1]

    def send(self, ue, slot=0, tb=None, snr_db=30.0):
        """One UE's transmission arrives at its cell; returns the transport block's bits."""
        config = ue.config
        if tb is None:
            tb = self.rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
        channel = ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, snr_db=snr_db)
        grid = Channel(channel, self.rng)(PuschTransmitter(config)(tb, slot % 20))
        self.group.receive(ue.cell, grid)
        return tb


@pytest.fixture
def bench(rng) -> Bench:
    return Bench(rng)


def bits(outcome_tb, n: int) -> np.ndarray:
    return np.unpackbits(outcome_tb)[:n]


def test_cells_of_different_configurations_are_received_in_one_slot(bench) -> None:
    for slot in (4, 9):
        sent = [bench.send(ue, slot) for ue in UES]
        bench.group.submit(slot, [Grant(ue) for ue in UES])
        (outcome,) = bench.group.collect(wait=True)
        assert outcome.slot == slot
        assert outcome.latency_us == pytest.approx(500.0)
        for tb, there in zip(sent, outcome.tbs, strict=True):
            assert there.status is UeStatus.ON_TIME
            assert np.array_equal(bits(there.tb, tb.size), tb)
            assert there.sinr_db > 15.0
    counters = bench.group.counters
    assert counters.slots == {"on_time": 2, "late": 0, "dropped": 0, "failed": 0}
    assert counters.good_bits == 2 * sum(ue.config.tb_size_bits for ue in UES)
    assert not bench.alarms


def test_a_late_block_is_reported_late_and_not_passed_on(bench) -> None:
    bench.pipeline.slot_us = 1300.0
    tb = bench.send(UES[0])
    bench.group.submit(0, [Grant(UES[0])])
    (outcome,) = bench.group.collect(wait=True)
    (late,) = outcome.tbs
    assert (late.status, late.crc_ok, late.tb) == (UeStatus.LATE, True, None)
    assert bench.group.counters.good_bits == 0
    assert bench.alarms[0].latency_us == pytest.approx(1300.0)
    # The UE sends it again, and it is combined with what came late.
    bench.pipeline.slot_us = 100.0
    bench.send(UES[0], 5, tb)
    bench.group.submit(5, [Grant(UES[0], new_data=False)])
    (outcome,) = bench.group.collect(wait=True)
    assert outcome.tbs[0].transmission == 1
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)


def test_tables_are_written_while_the_samples_arrive(bench) -> None:
    bench.group.prepare(4, [Grant(UES[0])])
    tb = bench.send(UES[0], 4)
    bench.clock.now_s += 1.0
    bench.group.start()
    (outcome,) = bench.group.collect(wait=True)
    assert outcome.latency_us == pytest.approx(500.0)
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)
    with pytest.raises(InvalidInputError, match="prepared"):
        bench.group.start()


def test_a_slot_that_finds_all_sides_busy_is_dropped(bench) -> None:
    bench.pipeline.slot_us = 100.0
    for slot in range(N_SIDES + 1):
        bench.send(UES[0], slot)
        bench.group.submit(slot, [Grant(UES[0])])
    outcomes = bench.group.collect(wait=True)
    assert [each.slot for each in outcomes] == [N_SIDES, *range(N_SIDES)]
    statuses = [each.tbs[0].status for each in outcomes]
    assert statuses == [UeStatus.DROPPED, *[UeStatus.ON_TIME] * N_SIDES]
    assert bench.group.counters.slots["dropped"] == 1


def test_a_failed_transmission_is_combined_with_its_retransmission(rng) -> None:
    config = PuschConfig(n_prb=12, n_layers=1, n_rx=2, mcs_index=19, rnti=11)
    first = UplinkUe(0, config)
    second = UplinkUe(0, PuschConfig(**{**vars_of(config), "rv": 2}))
    bench = Bench(rng, slots=[[first], [second]])
    tb = bench.send(first, 0, snr_db=7.0)
    bench.group.submit(0, [Grant(first)])
    bench.group.collect(wait=True)
    bench.send(second, 1, tb, snr_db=7.0)
    bench.group.submit(1, [Grant(second, new_data=False)])
    (outcome,) = bench.group.collect(wait=True)
    assert bench.group.counters.crc_failed == 1, "the first alone is too weak"
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)
    bench.group.books.check_integrity()


class Prices:
    """Each UE costs what its cell says."""

    def __init__(self, *us: float) -> None:
        self.us = us

    def base_us(self) -> float:
        return 100.0

    def ue_us(self, ue) -> float:
        return self.us[ue.cell]


def test_overload_sheds_whole_ues_and_the_others_are_received(rng) -> None:
    bench = Bench(rng, budget_us=600.0, cost=Prices(300.0, 350.0))
    tbs = [bench.send(ue) for ue in UES]
    bench.group.submit(0, [Grant(UES[0]), Grant(UES[1], priority=1)])
    (outcome,) = bench.group.collect(wait=True)
    assert [tb.status for tb in outcome.tbs] == [UeStatus.SHED, UeStatus.ON_TIME]
    assert np.array_equal(bits(outcome.tbs[1].tb, tbs[1].size), tbs[1])
    # What was shed was sent all the same: HARQ counts it.
    bench.send(UES[0], 1, tbs[0])
    bench.group.submit(1, [Grant(UES[0], new_data=False)])
    (outcome,) = bench.group.collect(wait=True)
    assert outcome.tbs[0].transmission == 1
    assert outcome.tbs[0].crc_ok


def test_memory_that_runs_out_ends_the_slot_and_no_more(bench) -> None:
    bench.pipeline.fault = GpuFaultError(FaultKind.OUT_OF_MEMORY, "cudaErrorMemoryAllocation", "x")
    bench.send(UES[0])
    bench.group.submit(0, [Grant(UES[0])])
    (outcome,) = bench.group.collect()
    assert outcome.tbs[0].status is UeStatus.FAILED
    assert "cudaErrorMemoryAllocation" in outcome.tbs[0].error
    assert bench.alarms[0].fault is not None
    tb = bench.send(UES[0], 1)
    bench.group.submit(1, [Grant(UES[0])])
    (outcome,) = bench.group.collect(wait=True)
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)
    assert bench.group.restarts == 0


def test_a_sticky_error_restarts_the_gpu_and_harq_goes_on(bench) -> None:
    # Cell 1 waits for a retransmission when the GPU breaks under cell 0.
    waiting = bench.send(UES[1], 0, snr_db=-10.0)
    bench.group.submit(0, [Grant(UES[1])])
    (outcome,) = bench.group.collect(wait=True)
    assert not outcome.tbs[0].crc_ok
    broken = bench.pipeline
    for slot in (1, 2):
        bench.send(UES[0], slot)
        bench.group.submit(slot, [Grant(UES[0], process_id=slot)])
    broken.fault = GpuFaultError(FaultKind.STICKY, "cudaErrorIllegalAddress", "a slot ran")
    outcomes = bench.group.collect(wait=True)
    assert [each.tbs[0].status for each in outcomes] == [UeStatus.FAILED] * 2
    counters = bench.group.counters
    assert (broken.closed, bench.group.restarts, bench.group.faults) == (True, 1, {"sticky": 1})
    assert counters.lost_soft_values == 1
    assert bench.pipeline is not broken
    assert [alarm.fault.answer for alarm in bench.alarms] == ["cudaErrorIllegalAddress"]

    bench.send(UES[1], 5, waiting)
    bench.group.submit(5, [Grant(UES[1], new_data=False)])
    (outcome,) = bench.group.collect(wait=True)
    assert outcome.tbs[0].transmission == 1, "the process is still in the books"
    assert np.array_equal(bits(outcome.tbs[0].tb, waiting.size), waiting)
    bench.group.books.check_integrity()


def test_while_the_gpu_does_not_come_back_slots_fail_and_it_is_tried_again(bench) -> None:
    lost = GpuFaultError(FaultKind.LOST, "cudaErrorNoDevice", "it was being set up")
    works = bench.group._lane._make_pipeline

    def refuses():
        raise lost

    bench.group._lane._make_pipeline = refuses
    bench.send(UES[0])
    bench.pipeline.fault = lost
    bench.group.submit(0, [Grant(UES[0])])
    bench.group.collect(wait=True)
    with pytest.raises(GpuFaultError):
        bench.group.samples(0)
    bench.group.submit(1, [Grant(UES[0])])
    (outcome,) = bench.group.collect()
    assert outcome.tbs[0].status is UeStatus.FAILED
    bench.group._lane._make_pipeline = works
    bench.clock.now_s += 2.0
    bench.group.submit(2, [Grant(UES[0])])  # sets it up
    bench.group.collect(wait=True)
    tb = bench.send(UES[0], 3)
    bench.group.submit(3, [Grant(UES[0])])
    (outcome,) = bench.group.collect(wait=True)
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)


def test_a_slot_prepared_and_never_started_was_sent_all_the_same(bench) -> None:
    bench.group.prepare(0, [Grant(UES[0])])
    tb = bench.send(UES[0], 1)
    bench.group.prepare(1, [Grant(UES[0], new_data=False)])
    bench.group.start()
    (outcome,) = bench.group.collect(wait=True)
    assert (outcome.slot, outcome.tbs[0].transmission) == (1, 1)
    assert np.array_equal(bits(outcome.tbs[0].tb, tb.size), tb)
    bench.group.books.check_integrity()


def test_what_was_learnt_of_a_ue_holds_for_its_next_allocation(rng) -> None:
    fields = {"n_rx": 4, "mcs_index": 4, "carrier_n_prb": 40, "carrier_start_prb": 0, "rnti": 9}
    first, moved, ports, narrow = (
        UplinkUe(0, PuschConfig(**fields, **each))
        for each in (
            {"n_prb": 20, "n_layers": 2},
            {"n_prb": 16, "n_layers": 2, "start_prb": 24},
            {"n_prb": 20, "n_layers": 1},
            {"n_prb": 5, "n_layers": 2},
        )
    )
    tuning = UplinkTuning(8)
    config = first.config
    channel = ChannelConfig("TDL-A", 30.0, n_rx=4, n_tx=2, snr_db=20.0)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    tuning.learn(first, Channel(channel, rng)(PuschTransmitter(config)(tb, 0)), 0)
    tuning.record(first)
    assert len(tuning.take_updates()) == 1
    record = tuning.record(moved).view(UE_DESCRIPTOR)[0]
    assert record["first_subcarrier"] == 24 * 12
    assert not tuning.take_updates(), "the same filters"
    for other in (ports, narrow):
        tuning.record(other)
        assert len(tuning.take_updates()) == 1, "filters of its own"


def test_filters_learnt_from_a_slot_receive_better(rng) -> None:
    bench = Bench(rng)
    sinr_db = []
    for learns in (False, True):
        for slot in range(3):
            bench.send(UES[1], slot, snr_db=18.0)
            grid = bench.group.samples(1).astype(np.float32).copy()
            bench.group.submit(slot, [Grant(UES[1])])
            (outcome,) = bench.group.collect(wait=True)
            sinr_db.append(outcome.tbs[0].sinr_db)
            if learns:
                bench.group.learn(UES[1], grid.view(np.complex64)[..., 0], slot)
            bench.group.track()
    assert all(tb.crc_ok for tb in outcome.tbs)
    assert np.mean(sinr_db[4:]) > np.mean(sinr_db[:3]) - 0.5


@pytest.mark.parametrize(
    ("grants", "named"),
    [
        ([Grant(UES[0]), Grant(UES[0], process_id=1)], "two grants"),
        ([Grant(UES[0], process_id=32)], "process_id"),
        ([Grant(UplinkUe(7, UES[0].config))], "cell"),
        ([Grant(UplinkUe(1, UES[0].config))], "antennas"),
    ],
)
def test_wrong_grants_are_refused_by_name(bench, grants, named) -> None:
    with pytest.raises(InvalidInputError, match=named):
        bench.group.submit(0, grants)
    assert bench.group.collect(wait=True) == []


def vars_of(config: PuschConfig) -> dict:
    from dataclasses import fields

    return {field.name: getattr(config, field.name) for field in fields(config)}


def test_without_a_gpu_a_cell_group_says_so() -> None:
    try:
        require_cupy()
    except GpuUnavailableError:
        pass
    else:
        pytest.skip("there is a GPU")
    limits = uplink.uplink_limits(GRIDS, [UES], n_soft_buffers=4)
    with pytest.raises(GpuFaultError, match=r"CuPy cannot be imported|no usable NVIDIA GPU"):
        open_cell_group(limits)
