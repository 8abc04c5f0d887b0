"""The slot runtime on a real GPU."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from phy import PdschConfig, PdschTransmitter, PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.gpu.device_group import GroupOptions, open_cell_group
from phy.gpu.downlink import downlink_limits
from phy.gpu.downlink_group import Assignment
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from phy.gpu.outcome import Grant, UeStatus
from phy.gpu.uplink import CellGrid, UplinkUe, uplink_limits

pytestmark = pytest.mark.gpu

GRIDS = [CellGrid(4, 51), CellGrid(2, 24), CellGrid(8, 20)]
UES = [
    UplinkUe(0, PuschConfig(n_prb=51, n_layers=4, n_rx=4, mcs_index=20, rnti=1)),
    UplinkUe(1, PuschConfig(n_prb=24, n_layers=1, n_rx=2, mcs_index=5, rnti=2)),
    UplinkUe(2, PuschConfig(n_prb=20, n_layers=2, n_rx=8, mcs_table=2, mcs_index=20, rnti=3)),
]


def send(group, rng, slot):
    tbs = []
    for ue in UES:
        config = ue.config
        tbs.append(rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8))
        channel = ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, snr_db=32.0)
        group.receive(ue.cell, Channel(channel, rng)(PuschTransmitter(config)(tbs[-1], slot % 20)))
    return tbs


def assert_received(group, rng, slot) -> None:
    tbs = send(group, rng, slot)
    group.submit(slot, [Grant(ue) for ue in UES])
    (outcome,) = group.collect(wait=True)
    for tb, there in zip(tbs, outcome.tbs, strict=True):
        assert there.crc_ok, there
        if there.status is UeStatus.ON_TIME:
            assert np.array_equal(np.unpackbits(there.tb)[: tb.size], tb)
    assert outcome.kernels_us < outcome.with_copies_us


@pytest.fixture(params=[True, False], ids=["worker", "in process"])
def is_isolated(request) -> bool:
    return request.param


@pytest.mark.parametrize("n_sms", [None, 32])
def test_a_cell_group_receives_cells_of_different_configurations(cp, n_sms, is_isolated) -> None:
    limits = uplink_limits(GRIDS, [UES], n_soft_buffers=16)
    options = GroupOptions(gears_sms=(n_sms,), is_isolated=is_isolated)
    cells = open_cell_group(limits, options=options)
    group = cells.uplink
    rng = np.random.default_rng(5)
    for slot in range(6):
        assert_received(group, rng, slot)
    assert group.counters.slots["failed"] == 0
    assert group.n_sms == (n_sms or 132)
    cells.close()


@pytest.mark.parametrize("breaks", ["illegal address", "kill -9"])
def test_a_broken_gpu_process_is_survived(cp, breaks) -> None:
    cells = open_cell_group(uplink_limits(GRIDS, [UES], n_soft_buffers=16))
    group = cells.uplink
    rng = np.random.default_rng(5)
    assert_received(group, rng, 0)
    send(group, rng, 1)
    group.prepare(1, [Grant(ue) for ue in UES])
    worker = group._lane.running()
    if breaks == "kill -9":
        os.kill(worker.pid, signal.SIGKILL)
    else:
        worker.inputs(1)["ues"]["grid_offset"] = 2**30
    group.start()
    (outcome,) = group.collect(wait=True)
    assert {tb.status for tb in outcome.tbs} == {UeStatus.FAILED}
    if breaks == "illegal address":
        assert "(sticky)" in outcome.tbs[0].error
    deadline = time.monotonic() + 60
    while not group.is_ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert group.restarts == 1
    for slot in range(2, 5):
        assert_received(group, rng, slot)
    cells.close()


@pytest.mark.parametrize("breaks", [False, True])
def test_both_directions_share_the_gpu(cp, breaks) -> None:
    receivers = [DownlinkUe(0, PdschConfig(n_prb=51, n_layers=4, mcs_table=2, mcs_index=20))]
    cells = open_cell_group(
        uplink_limits(GRIDS, [UES], n_soft_buffers=16),
        downlink_limits([SendGrid(4, 51)], [receivers]),
    )
    assert cells.downlink is not None
    rng = np.random.default_rng(5)
    if breaks:
        send(cells.uplink, rng, 1)
        cells.uplink.prepare(1, [Grant(ue) for ue in UES])
        os.kill(cells.uplink._lane.running().pid, signal.SIGKILL)
        cells.uplink.start()
        cells.collect(wait=True)
        deadline = time.monotonic() + 60
        tb = np.zeros(receivers[0].tb.n_bytes, np.uint8)
        while not cells.is_ready() or cells.downlink.restarts == 0:
            cells.downlink.prepare(0, [Assignment(receivers[0], tb)])
            cells.downlink.start()
            cells.collect(wait=True)
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for slot in range(4):
        tb = rng.integers(0, 2, receivers[0].config.tb_size_bits, dtype=np.uint8)
        cells.downlink.prepare(slot, [Assignment(receivers[0], np.packbits(tb))])
        cells.downlink.start()
        (sent,) = cells.downlink.collect(wait=True)
        assert sent.status in (UeStatus.ON_TIME, UeStatus.LATE)
        if sent.status is UeStatus.ON_TIME:
            grid = cells.downlink.grid(sent, 0).astype(np.float32).copy()
            expected = PdschTransmitter(receivers[0].config)(tb, slot)
            assert np.abs(grid.view(np.complex64)[..., 0] - expected).max() < 2e-3
        assert_received(cells.uplink, rng, slot)
    assert cells.downlink.slots["on_time"] > 0
    cells.close()


def test_a_cell_group_receives_the_same_in_every_gear(cp) -> None:
    options = GroupOptions(gears_sms=(16, 64, None))
    cells = open_cell_group(uplink_limits(GRIDS, [UES], n_soft_buffers=16), options=options)
    rng = np.random.default_rng(5)
    slot = 0
    for gear, n_sms in ((0, 16), (2, 132), (1, 64), (0, 16)):
        cells.shift(gear)
        assert cells.uplink.n_sms == n_sms
        for _ in range(4):
            assert_received(cells.uplink, rng, slot)
            slot += 1
    assert cells.uplink.counters.slots["failed"] == 0
    cells.close()


def test_a_process_that_stands_by_takes_over_within_a_second(cp) -> None:
    limits = uplink_limits(GRIDS, [UES], n_soft_buffers=16)
    cells = open_cell_group(limits, options=GroupOptions(has_standby=True))
    group = cells.uplink
    rng = np.random.default_rng(5)
    assert_received(group, rng, 0)
    time.sleep(30)  # until the other one has set the GPU up
    os.kill(group._lane.running().pid, signal.SIGKILL)
    killed_s = time.monotonic()
    send(group, rng, 1)
    group.submit(1, [Grant(ue) for ue in UES])
    group.collect(wait=True)
    while not group.is_ready():
        assert time.monotonic() - killed_s < 1
    assert_received(group, rng, 2)
    assert time.monotonic() - killed_s < 1
    cells.close()
