"""Block error rates of the GPU's receiver and the CPU's on the same simulated slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from phy.channel import Channel, ChannelConfig
from phy.gpu.device_group import GroupOptions, open_cell_group
from phy.gpu.outcome import Grant
from phy.gpu.uplink import CellGrid, UplinkUe, uplink_limits
from phy.gpu.uplink_options import UplinkOptions
from phy.pusch.config import PuschConfig
from phy.pusch.receiver import PuschReceiver
from phy.pusch.transmitter import PuschTransmitter

CONFIG = PuschConfig(n_prb=51, n_layers=2, n_rx=4, mcs_index=17, mcs_table=1)
SNRS_DB = (5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0)
N_CELLS = 20


@dataclass(frozen=True)
class BlerPoint:
    """One signal-to-noise ratio.

    Attributes:
        snr_db: of the simulated radio.
        blocks: transport blocks.
        bler_cpu, bler_gpu: parts of them that were not decoded.
        same_verdict: part of them on which both agree.
        same_bits: part of those that both decoded whose bits are the same; None if there are none.
    """

    snr_db: float
    blocks: int
    bler_cpu: float
    bler_gpu: float
    same_verdict: float
    same_bits: float | None


def compare(
    snrs_db: Sequence[float] = SNRS_DB, n_slots: int = 10, seed: int = 1
) -> Iterator[BlerPoint]:
    """Receives `n_slots` slots of N_CELLS cells at each SNR with both; each block's filters are
    designed from its own slot, as the CPU's receiver does.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
    """
    rng = np.random.default_rng(seed)
    ues = [UplinkUe(cell, CONFIG) for cell in range(N_CELLS)]
    cells = [CellGrid(CONFIG.n_rx, CONFIG.n_prb)] * N_CELLS
    # Designing filters takes its time, so no slot is on the radio's.
    options = GroupOptions(uplink=UplinkOptions(budget_us=1e9))
    limits = uplink_limits(cells, [ues], n_soft_buffers=2 * N_CELLS)
    group = open_cell_group(limits, options=options)
    transmit, receive = PuschTransmitter(CONFIG), PuschReceiver(CONFIG)
    try:
        for snr_db in snrs_db:
            channel = Channel(
                ChannelConfig(n_rx=CONFIG.n_rx, n_tx=CONFIG.n_layers, snr_db=snr_db), rng
            )
            of_cpu, of_gpu, same = [], [], []
            for slot in range(n_slots):
                expected = []
                for ue in ues:
                    tb = rng.integers(0, 2, CONFIG.tb_size_bits, dtype=np.uint8)
                    grid = channel(transmit(tb, slot % 20))
                    group.uplink.receive(ue.cell, grid)
                    group.uplink.learn(ue, grid, slot % 20)
                    expected.append(receive(grid, slot_number=slot % 20))
                group.uplink.submit(slot, [Grant(ue) for ue in ues])
                (outcome,) = group.uplink.collect(wait=True)
                for cpu, gpu in zip(expected, outcome.tbs, strict=True):
                    of_cpu.append(bool(cpu.crc_ok))
                    of_gpu.append(gpu.crc_ok)
                    if cpu.crc_ok and gpu.tb is not None:
                        bits = np.unpackbits(gpu.tb)[: CONFIG.tb_size_bits]
                        same.append(np.array_equal(bits, cpu.tb))
            yield BlerPoint(
                snr_db,
                len(of_cpu),
                1 - float(np.mean(of_cpu)),
                1 - float(np.mean(of_gpu)),
                float(np.mean(np.equal(of_cpu, of_gpu))),
                float(np.mean(same)) if same else None,
            )
    finally:
        group.close()
