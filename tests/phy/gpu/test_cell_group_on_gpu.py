"""The slot runtime on a real GPU."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from phy import PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
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


@pytest.mark.parametrize("n_sms", [None, 32])
def test_a_cell_group_receives_cells_of_different_configurations(cp, n_sms) -> None:
    from phy.gpu.device_group import open_cell_group

    limits = uplink_limits(GRIDS, [UES], n_soft_buffers=16)
    group = open_cell_group(limits, n_sms=n_sms)
    rng = np.random.default_rng(5)
    for slot in range(6):
        assert_received(group, rng, slot)
    assert group.counters.slots["failed"] == 0
    group.close()


def test_a_sticky_error_is_survived(cp) -> None:
    # In a process of its own: a CUDA context does not outlive it.
    done = subprocess.run(
        [sys.executable, "-c", _BREAKS], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on after" in done.stdout


_BREAKS = """
import numpy as np, time
import cupy as cp
from phy.gpu.device_group import open_cell_group
from phy.gpu.uplink import uplink_limits
from phy.gpu.outcome import Grant, UeStatus
from tests.phy.gpu.test_cell_group_on_gpu import GRIDS, UES, send, assert_received

limits = uplink_limits(GRIDS, [UES], n_soft_buffers=16)
group = open_cell_group(limits)
rng = np.random.default_rng(5)
assert_received(group, rng, 0)
bad = cp.RawKernel('extern "C" __global__ void bad(int* at) { *at = 1; }', 'bad')
send(group, rng, 1)
bad((1,), (1,), (np.uint64(8),))
group.submit(1, [Grant(ue) for ue in UES])
outcomes = group.collect(wait=True)
print(outcomes[0].tbs[0].error)
assert outcomes[0].tbs[0].status is UeStatus.FAILED
assert group.counters.restarts == 1, group.counters
for slot in range(2, 5):
    assert_received(group, rng, slot)
print('goes on after', group.counters.faults)
import os
os._exit(0)
"""
