"""Both directions of a cell group, over kernels emulated on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import PdschConfig, PdschTransmitter, PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink import downlink_limits, downlink_program
from phy.gpu.downlink_group import Assignment, DownlinkGroup, DownlinkOptions
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.outcome import Grant, UeStatus
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink import CellGrid, UplinkUe, uplink_limits, uplink_program
from phy.gpu.uplink_group import UplinkGroup
from tests.phy.gpu.emulated_pipeline import Clock, EmulatedPipeline

UE = UplinkUe(0, PuschConfig(n_prb=12, n_layers=1, n_rx=2, mcs_index=16, rnti=11))
RECEIVERS = [
    DownlinkUe(0, PdschConfig(n_prb=12, n_layers=2, mcs_index=10, rnti=21)),
    DownlinkUe(1, PdschConfig(n_prb=14, n_layers=1, mcs_index=18, rnti=22)),
]
GRIDS = [SendGrid(2, 12), SendGrid(4, 14)]


class Bench:
    def __init__(self, rng) -> None:
        self.rng = rng
        self.clock = Clock()
        self.alarms = []
        self.pipelines: list[EmulatedPipeline] = []
        up = uplink_limits([CellGrid(2, 12)], [[UE]], n_soft_buffers=2)
        down = downlink_limits(GRIDS, [RECEIVERS])
        uplink = UplinkGroup(up, lambda: self.made(uplink_program(up)), now_s=self.clock)
        self.downlink = DownlinkGroup(
            down,
            lambda: self.made(downlink_program(down)),
            on_alarm=self.alarms.append,
            now_s=self.clock,
        )
        self.group = CellGroup(uplink, self.downlink)

    def made(self, program) -> EmulatedPipeline:
        self.pipelines.append(EmulatedPipeline(program, self.clock))
        self.pipelines[-1].slot_us = 200.0
        return self.pipelines[-1]

    def assignments(self):
        tbs = [self.rng.integers(0, 2, ue.config.tb_size_bits, dtype=np.uint8) for ue in RECEIVERS]
        return tbs, [Assignment(ue, np.packbits(tb)) for ue, tb in zip(RECEIVERS, tbs, strict=True)]

    def assert_sent(self, sent, tbs) -> None:
        assert sent.status is UeStatus.ON_TIME
        for ue, tb in zip(RECEIVERS, tbs, strict=True):
            expected = PdschTransmitter(ue.config)(tb, sent.slot % 20)
            grid = self.downlink.grid(sent, ue.cell).astype(np.float32).copy()
            found = grid.view(np.complex64)[..., 0]
            assert np.abs(found[: len(expected)] - expected).max() < 2e-3
            assert not found[len(expected) :].any()


@pytest.fixture
def bench(rng) -> Bench:
    return Bench(rng)


def test_a_frame_of_dddsu_goes_out_and_comes_in(bench) -> None:
    for slot in range(5):
        if bench.group.kind(slot) == "U":
            tb = bench.rng.integers(0, 2, UE.config.tb_size_bits, dtype=np.uint8)
            sent = PuschTransmitter(UE.config)(tb, slot)
            channel = ChannelConfig(n_rx=2, n_tx=1, snr_db=30.0)
            bench.group.uplink.receive(0, Channel(channel, bench.rng)(sent))
            bench.group.prepare(slot, grants=[Grant(UE)])
            bench.group.uplink.start()
            (outcome,) = bench.group.collect(wait=True).received
            assert np.array_equal(np.unpackbits(outcome.tbs[0].tb)[: tb.size], tb)
        else:
            tbs, assignments = bench.assignments()
            bench.group.prepare(slot, assignments=assignments)
            bench.downlink.start()
            (there,) = bench.group.collect(wait=True).sent
            bench.assert_sent(there, tbs)
    assert slot == 4
    assert bench.downlink.slots == {"on_time": 4, "late": 0, "dropped": 0, "failed": 0}


def test_each_direction_has_its_slots(bench) -> None:
    with pytest.raises(InvalidInputError, match="slot 0 is a downlink slot"):
        bench.group.prepare(0, grants=[Grant(UE)])
    with pytest.raises(InvalidInputError, match="slot 4 is an uplink slot"):
        bench.group.prepare(4, assignments=bench.assignments()[1])


def test_a_late_slot_is_not_sent(bench) -> None:
    bench.pipelines[1].slot_us = 400.0
    bench.downlink.prepare(0, bench.assignments()[1])
    bench.downlink.start()
    (late,) = bench.downlink.collect(wait=True)
    assert (late.status, late.grids) == (UeStatus.LATE, None)
    assert bench.alarms[0].latency_us == pytest.approx(400.0)
    with pytest.raises(InvalidInputError, match="late"):
        bench.downlink.grid(late, 0)


def test_a_slot_that_finds_all_sides_busy_is_dropped(bench) -> None:
    for slot in range(N_SIDES + 1):
        bench.downlink.prepare(slot, bench.assignments()[1])
        bench.downlink.start()
    assert sorted(sent.slot for sent in bench.downlink.collect(wait=True)) == list(
        range(N_SIDES + 1)
    )
    assert bench.downlink.slots["dropped"] == 1


def test_the_downlink_comes_back_after_a_fault(bench) -> None:
    broken = bench.pipelines[1]
    bench.downlink.prepare(0, bench.assignments()[1])
    bench.downlink.start()
    broken.fault = GpuFaultError(FaultKind.STICKY, "cudaErrorIllegalAddress", "a slot ran")
    (failed,) = bench.downlink.collect(wait=True)
    assert failed.status is UeStatus.FAILED
    assert "cudaErrorIllegalAddress" in failed.error
    assert (bench.downlink.restarts, broken.closed) == (1, True)
    tbs, assignments = bench.assignments()
    bench.group.prepare(1, assignments=assignments)
    bench.downlink.start()
    (sent,) = bench.downlink.collect(wait=True)
    bench.assert_sent(sent, tbs)
    bench.group.close()
    assert all(pipeline.closed for pipeline in bench.pipelines)


def test_grids_that_stay_on_the_gpu_are_not_copied(rng) -> None:
    limits = downlink_limits(GRIDS, [RECEIVERS], is_copied_out=False)
    program = downlink_program(limits)
    assert "grids" not in program.outputs
    clock = Clock()
    group = DownlinkGroup(
        limits, lambda: EmulatedPipeline(program, clock), DownlinkOptions(1e6), now_s=clock
    )
    assignments = Bench(rng).assignments()[1]
    group.prepare(0, assignments)
    group.start()
    (sent,) = group.collect(wait=True)
    assert (sent.status, sent.grids) == (UeStatus.ON_TIME, None)


def test_transport_blocks_may_be_written_where_they_are_sent_from(bench) -> None:
    tbs, _ = bench.assignments()
    for room, tb in zip(bench.downlink.rooms(RECEIVERS), tbs, strict=True):
        room[...] = np.packbits(tb)
    bench.downlink.prepare(7, [Assignment(ue, None) for ue in RECEIVERS])
    bench.downlink.start()
    (sent,) = bench.downlink.collect(wait=True)
    bench.assert_sent(sent, tbs)
    with pytest.raises(InvalidInputError, match="room"):
        bench.downlink.rooms(RECEIVERS * 2)


def test_slots_run_in_the_gear_that_was_set_when_they_started(bench) -> None:
    receiving, sending = bench.pipelines
    bench.downlink.prepare(0, bench.assignments()[1])
    bench.downlink.start()
    bench.group.shift(2)
    bench.downlink.prepare(1, bench.assignments()[1])
    bench.downlink.start()
    assert sending.started_in == [0, 2]
    assert receiving.gear == 2
    assert bench.group.n_under_way == 2
    bench.group.collect(wait=True)
    assert bench.group.n_under_way == 0


def test_a_group_that_comes_back_after_a_fault_is_in_the_gear_it_was_in(bench) -> None:
    bench.group.shift(1)
    bench.downlink.prepare(0, bench.assignments()[1])
    bench.downlink.start()
    bench.pipelines[1].fault = GpuFaultError(FaultKind.LOST, "no answer", "a slot ran")
    bench.downlink.collect(wait=True)
    assert bench.pipelines[2].gear == 1
