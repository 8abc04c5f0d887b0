"""Slots of simulated UEs, packed as the front end takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phy import PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.gpu.front_end_filters import COLUMNS, WINDOW, FilterSet, tune
from phy.gpu.front_end_layout import (
    UE_DESCRIPTOR,
    UePlacement,
    channel_values,
    describe,
    pack_bits,
    pack_grid,
    pack_pilots,
)
from phy.receiver.channel_estimation import ChannelEstimate, ChannelEstimator


@dataclass(frozen=True)
class PackedSlot:
    """What goes to the device, and what it was made of."""

    configs: list[PuschConfig]
    grids: list[np.ndarray]
    tbs: list[np.ndarray]
    estimates: list[ChannelEstimate]
    ues: np.ndarray
    samples: np.ndarray
    pilots: np.ndarray
    taps: np.ndarray
    scrambling: np.ndarray
    n_channel: int
    n_llr: int


def simulate(
    config: PuschConfig, channel: ChannelConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (grid, transport block) of one slot."""
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    return Channel(channel, rng)(PuschTransmitter(config)(tb)), tb


def pack(
    configs: list[PuschConfig],
    grids: list[np.ndarray],
    tbs: list[np.ndarray],
    is_irc: bool = False,
) -> PackedSlot:
    """Packs one UE for each cell, tuned by the CPU's estimate of the same slot."""
    samples, pilots, scrambling, tables, records, estimates = [], [], [], [], [], []
    at = {"grid": 0, "pilots": 0, "channel": 0, "llr": 0, "scrambling": 0}
    for config, grid in zip(configs, grids, strict=True):
        estimator = ChannelEstimator([config])
        own = grid[:, :, config.subcarriers]
        estimate = estimator(own, config.pilots(config.slot_number), config.slot_number, None)
        sets, tuning = tune(config, estimate, len(tables), is_irc)
        records.append(describe(config, UePlacement(**at), tuning))
        tables += sets
        estimates.append(estimate)
        samples.append(pack_grid(grid).reshape(-1, 2))
        pilots.append(pack_pilots(config, config.slot_number).reshape(-1))
        scrambling.append(pack_bits(config.scrambling_sequence))
        at["grid"] += samples[-1].shape[0]
        at["pilots"] += pilots[-1].size
        at["channel"] += channel_values(config)
        at["llr"] += -(-config.sch.n_coded_bits // 16) * 16
        at["scrambling"] += scrambling[-1].size
    return PackedSlot(
        configs=configs,
        grids=grids,
        tbs=tbs,
        estimates=estimates,
        ues=np.concatenate(records),
        samples=np.concatenate(samples),
        pilots=np.concatenate(pilots),
        taps=_table(tables),
        scrambling=np.concatenate(scrambling),
        n_channel=at["channel"],
        n_llr=at["llr"],
    )


def _table(sets: list[FilterSet]) -> np.ndarray:
    table = np.zeros((len(sets), WINDOW, COLUMNS, 2), np.float16)
    for index, each in enumerate(sets):
        table[index] = each.taps
    return table


def empty(ues: np.ndarray) -> np.ndarray:
    """`ues` with a record in front that holds no UE."""
    return np.concatenate([np.zeros(1, UE_DESCRIPTOR), ues])
