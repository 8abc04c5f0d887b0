"""A slot of received grids packed for the front end, each UE tuned by its own grid: for benches and
tests, and for a UE's first slot, when nothing was measured before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy.gpu import gold
from phy.gpu.front_end_filters import FilterSet, tune
from phy.gpu.front_end_layout import (
    UePlacement,
    UeTuning,
    channel_values,
    describe,
    pack_grid,
    pilot_words,
    scrambling_words,
)
from phy.gpu.front_end_plan import FrontEndLimits
from phy.pusch.config import PuschConfig
from phy.receiver.channel_estimation import ChannelEstimate, ChannelEstimator


@dataclass(frozen=True)
class PackedSlot:
    """What goes to the device.

    Attributes:
        limits: what just holds the slot.
        ues: UE_DESCRIPTOR[UE].
        samples: float16[sample, 2], the cells' grids.
        taps: float16[filter set, 64, 132, 2].
        pilots: uint32[word], which the device generates itself, for the twin.
        scrambling: uint32[word], likewise.
        estimates: what the CPU's receiver made of each UE's grid.
        tunings: what the UEs' records were made with.
    """

    limits: FrontEndLimits
    ues: npt.NDArray[np.void]
    samples: npt.NDArray[np.float16]
    taps: npt.NDArray[np.float16]
    pilots: npt.NDArray[np.uint32]
    scrambling: npt.NDArray[np.uint32]
    estimates: tuple[ChannelEstimate, ...]
    tunings: tuple[UeTuning, ...]

    @property
    def inputs(self) -> dict[str, npt.NDArray[np.generic]]:
        """The front end's inputs by their buffers' names."""
        return {"ues": self.ues, "samples": self.samples, "taps": self.taps}


def place(configs: Sequence[PuschConfig], cells: Sequence[int]) -> list[UePlacement]:
    """Lays UEs out one behind the other; `cells` gives the samples before each UE's grid."""
    at = {"pilots": 0, "channel": 0, "llr": 0, "scrambling": 0}
    placements = []
    for config, cell in zip(configs, cells, strict=True):
        placements.append(UePlacement(grid=cell, **at))
        n_bits = config.sch.n_coded_bits
        at["pilots"] += len(config.dmrs_symbols) * pilot_words(config)
        at["channel"] += channel_values(config)
        at["llr"] += -(-n_bits // 16) * 16
        at["scrambling"] += scrambling_words(config)
    return placements


def pack(
    configs: Sequence[PuschConfig],
    grids: Sequence[npt.NDArray[np.complex64]],
    is_irc: bool = False,
) -> PackedSlot:
    """Packs one UE for each cell.

    Args:
        configs: one UE a cell.
        grids: complex64[rx, 14, subcarrier] of each cell.
        is_irc: UEs ask for whitening.
    """
    tables: list[FilterSet] = []
    records, estimates, tunings = [], [], []
    starts = np.cumsum([0, *(grid.size for grid in grids)])
    placements = place(configs, starts[:-1].tolist())
    for config, grid, placement in zip(configs, grids, placements, strict=True):
        own = grid[:, :, config.subcarriers]
        slot_number = config.slot_number
        estimate = ChannelEstimator([config])(own, config.pilots(slot_number), slot_number, None)
        sets, tuning = tune(config, estimate, len(tables), is_irc)
        tables += sets
        records.append(describe(config, placement, tuning))
        estimates.append(estimate)
        tunings.append(tuning)
    ues = np.concatenate(records)
    last, of_last = configs[-1], placements[-1]
    limits = FrontEndLimits(
        n_ues=len(configs),
        n_prb=max(config.n_prb for config in configs),
        n_rx=tuple(sorted({config.n_rx for config in configs})),
        n_filter_sets=len(tables),
        n_samples=int(starts[-1]),
        n_channel=of_last.channel + channel_values(last),
        n_coded_bits=max(config.sch.n_coded_bits for config in configs),
        n_llr=of_last.llr + last.sch.n_coded_bits,
        n_pilot_words=of_last.pilots + len(last.dmrs_symbols) * pilot_words(last),
        n_scrambling_words=of_last.scrambling + scrambling_words(last),
        has_irc=is_irc,
    )
    pilots, scrambling = gold.generate(ues, limits.n_pilot_words, limits.n_scrambling_words)
    return PackedSlot(
        limits=limits,
        ues=ues,
        samples=np.concatenate([pack_grid(grid).reshape(-1, 2) for grid in grids]),
        taps=np.stack([each.taps for each in tables]),
        pilots=pilots,
        scrambling=scrambling,
        estimates=tuple(estimates),
        tunings=tuple(tunings),
    )
