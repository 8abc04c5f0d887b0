"""What the receiver has learnt about each UE, and where its filters lie on the GPU.

A UE's first slots are received with filters for any delay within the cyclic prefix; what its slots
show then refines them (`learn`, on the host, off the hot path).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu.front_end_filters import WINDOW, FilterSet, design_filter, follow, tune
from phy.gpu.front_end_layout import UeTuning, code_of, codes
from phy.gpu.uplink import MAX_FILTER_SETS, UplinkUe, tuned_record
from phy.pusch.config import PuschConfig
from phy.receiver.channel_estimation import ChannelEstimator
from phy.receiver.delay_profile import DelayWindow, flat_profile
from phy.receiver.pilots import PilotReader
from phy.receiver.wiener import FilterDesign

_FIRST_NOISE = 0.01
"""Noise that a UE's first filters assume, relative to its power on one antenna."""

UeKey = tuple[int, int]
"""Cell and RNTI."""


@dataclass(frozen=True)
class FilterUpdate:
    """Filters to be written to the GPU before the UE's next slot.

    Attributes:
        first_row: of the table of taps.
        taps: float16[set, 64, 132, 2].
    """

    first_row: int
    taps: npt.NDArray[np.float16]


@dataclass
class _Known:
    first_row: int
    ue: UplinkUe
    tuning: UeTuning
    record: npt.NDArray[np.int32]
    taps: npt.NDArray[np.float16]


class UplinkTuning:
    """The tunings of all UEs of a cell group."""

    def __init__(self, n_rows: int) -> None:
        """`n_rows` filter sets lie on the GPU, MAX_FILTER_SETS of each UE."""
        self._free = list(range(0, n_rows - MAX_FILTER_SETS + 1, MAX_FILTER_SETS))[::-1]
        self._known: dict[UeKey, _Known] = {}
        self._updates: list[FilterUpdate] = []

    def record(self, ue: UplinkUe) -> npt.NDArray[np.int32]:
        """Returns the UE's record for its next slot; a UE not known yet gets its first filters, and
        so does one whose new allocation needs others than its last.

        Raises:
            InvalidInputError: too many UEs; `forget` those that have left.
        """
        known = self._known.get((ue.cell, ue.config.rnti))
        if known is not None and known.ue is ue:
            return known.record
        if known is not None and _shares_filters(known.ue.config, ue.config):
            known.ue = ue
            known.record = tuned_record(ue, known.tuning, known.first_row)
            return known.record
        return self._enter(ue, *_first_tuning(ue.config))

    def learn(self, ue: UplinkUe, grid: npt.NDArray[np.complex64], slot_number: int) -> None:
        """Designs the UE's filters from one of its slots, as phy's receiver measures it. Takes tens
        of ms.

        Args:
            ue: the UE.
            grid: complex64[rx, 14, subcarrier] of its cell.
            slot_number: within the frame.
        """
        config = ue.config
        own = grid[:, :, config.subcarriers]
        estimate = ChannelEstimator([config])(own, config.pilots(slot_number), slot_number, None)
        self._enter(ue, *tune(config, estimate, 0))

    def follow(self, ue: UplinkUe, slot_number: int, result: np.void) -> None:
        """Takes the UE's motion over from the UE_RESULT of one of its slots."""
        known = self._known[ue.cell, ue.config.rnti]
        known.tuning, _ = follow(ue.config, slot_number, result, known.tuning)
        known.record = tuned_record(ue, known.tuning, known.first_row)

    def forget(self, cell: int, rnti: int) -> None:
        """A UE has left; one that is not known is no error."""
        known = self._known.pop((cell, rnti), None)
        if known is not None:
            self._free.append(known.first_row)

    def take_updates(self) -> list[FilterUpdate]:
        """Returns the filters that have to be written, once."""
        updates, self._updates = self._updates, []
        return updates

    def write_again(self) -> None:
        """The GPU's memory was lost: all filters have to be written again."""
        self._updates = [FilterUpdate(each.first_row, each.taps) for each in self._known.values()]

    def _enter(
        self, ue: UplinkUe, sets: tuple[FilterSet, ...] | list[FilterSet], tuning: UeTuning
    ) -> npt.NDArray[np.int32]:
        key = (ue.cell, ue.config.rnti)
        known = self._known.get(key)
        if known is None:
            if not self._free:
                raise InvalidInputError(
                    "ue",
                    f"no room for the filters of RNTI {ue.config.rnti} in cell {ue.cell}",
                    remedy="forget UEs that have left, or prepare the cell group for more",
                )
            first_row = self._free.pop()
        else:
            first_row = known.first_row
        record = tuned_record(ue, tuning, first_row)
        taps = np.stack([each.taps for each in sets])
        self._known[key] = _Known(first_row, ue, tuning, record, taps)
        self._updates.append(FilterUpdate(first_row, taps))
        return record


def _shares_filters(one: PuschConfig, other: PuschConfig) -> bool:
    """Allocations wider than a filter's window have the same filters wherever they lie, if their
    DM-RS is the same."""
    widest = all(6 * config.n_prb >= WINDOW for config in (one, other))
    return (widest or one.n_prb == other.n_prb) and _pilots(one) == _pilots(other)


def _pilots(config: PuschConfig) -> tuple[object, ...]:
    return (
        *(config.scs_khz, config.ports, config.dmrs_symbols, config.dmrs_length),
        config.n_cdm_groups_without_data,
    )


def _first_tuning(config: PuschConfig) -> tuple[tuple[FilterSet, ...], UeTuning]:
    reader = PilotReader([config])
    has_partner = {code_of(layer.port): layer.has_partner for layer in reader.layers}
    kinds = sorted(set(has_partner.values()))
    noise = _FIRST_NOISE * reader.noise_factor
    sets = tuple(
        _first_filter(with_partner, 12 * config.n_prb, config.scs_khz, noise)
        for with_partner in kinds
    )
    of_code = [kinds.index(has_partner[code]) for code in codes(config)]
    n_positions = len(reader.positions)
    return sets, UeTuning(
        filter_sets=tuple(of_code),
        residual_parts=tuple(sets[index].residual_part for index in of_code),
        error_part=float(np.mean([sets[index].error_part for index in of_code])),
        time_weights=np.full((14, n_positions), 1 / n_positions, np.complex64),
    )


@lru_cache(maxsize=600)
def _first_filter(
    has_partner: bool, n_subcarriers: int, scs_khz: int, noise_var: float
) -> FilterSet:
    whole = DelayWindow.within_cyclic_prefix(scs_khz)
    profile = flat_profile(1.0, whole)
    return design_filter(
        FilterDesign(
            profile=profile,
            partner=profile if has_partner else None,
            noise_var=noise_var,
            scs_khz=scs_khz,
        ),
        n_subcarriers,
    )
