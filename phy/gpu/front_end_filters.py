"""The Wiener filters of the front end, designed on the host from what earlier slots measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from phy.gpu.front_end_layout import PAIRS, UeTuning, code_of, codes
from phy.pusch.config import PuschConfig
from phy.receiver.channel_estimation import ChannelEstimate
from phy.receiver.offsets import symbol_times_s
from phy.receiver.pilots import PilotReader
from phy.receiver.time_interpolation import TimeModel, fit_products
from phy.receiver.wiener import FilterDesign, window_taps

WINDOW = 64
"""Pilots that a subcarrier is estimated from."""

TILE = 64
"""Subcarriers that share a window."""

COLUMNS = 132
"""Columns of a filter set: targets from one subcarrier before the window's first pilot on."""

_SPACING = 2


@dataclass(frozen=True)
class FilterSet:
    """Taps for every target in a window.

    Attributes:
        taps: float16[64, 132, 2], real and imaginary parts by pilot and target.
        residual_part: variance of the residual at the pilots relative to the estimates' noise.
        error_part: variance of the noise left on a subcarrier, likewise.
    """

    taps: npt.NDArray[np.float16]
    residual_part: float
    error_part: float


def tile_windows(n_subcarriers: int) -> list[tuple[int, int, int]]:
    """Returns (first subcarrier, subcarriers, first pilot of the window) of each tile."""
    n_pilots = n_subcarriers // _SPACING
    margin = (WINDOW - TILE // _SPACING) // 2
    return [
        (
            first,
            min(TILE, n_subcarriers - first),
            max(0, min(first // _SPACING - margin, n_pilots - WINDOW)),
        )
        for first in range(0, n_subcarriers, TILE)
    ]


def design_filter(design: FilterDesign, n_subcarriers: int) -> FilterSet:
    """Designs the filter of one code for an allocation of `n_subcarriers`."""
    n_in = min(WINDOW, n_subcarriers // _SPACING)
    targets = range(-1, _SPACING * n_in)
    taps, residual_parts = window_taps(n_in, _SPACING, targets, design)
    table = np.zeros((WINDOW, COLUMNS, 2), np.float16)
    table[:n_in, : len(targets), 0] = taps.real
    table[:n_in, : len(targets), 1] = taps.imag
    windows = tile_windows(n_subcarriers)
    seen = np.concatenate(
        [
            np.arange(first // _SPACING, (first + count) // _SPACING) - pilot
            for first, count, pilot in windows
        ]
    )
    found = np.concatenate(
        [first + np.arange(count) - _SPACING * pilot + 1 for first, count, pilot in windows]
    )
    gains = (np.abs(taps) ** 2).sum(axis=0)
    return FilterSet(table, float(residual_parts[seen].mean()), float(gains[found].mean()))


def tune(
    config: PuschConfig, estimate: ChannelEstimate, first_set: int, is_irc: bool = False
) -> tuple[list[FilterSet], UeTuning]:
    """Designs a UE's filters from an estimate of an earlier slot.

    Args:
        config: the UE.
        estimate: what phy.receiver.channel_estimation made of the earlier slot, of this UE alone.
        first_set: row in the table of taps that the first filter will take.
        is_irc: whiten noise and interference.

    Returns:
        The filter sets, from `first_set` on, and the UE's tuning; its noise is left to be measured
        in every slot.
    """
    reader = PilotReader([config])
    has_partner = {code_of(layer.port): layer.has_partner for layer in reader.layers}
    kinds = sorted(set(has_partner.values()))
    sets = [
        design_filter(
            FilterDesign(
                profile=estimate.profiles[0],
                partner=estimate.profiles[0] if with_partner else None,
                noise_var=estimate.noise_var * reader.noise_factor,
                scs_khz=config.scs_khz,
            ),
            12 * config.n_prb,
        )
        for with_partner in kinds
    ]
    of_code = [kinds.index(has_partner[code]) for code in codes(config)]
    return sets, UeTuning(
        filter_sets=tuple(first_set + index for index in of_code),
        residual_parts=tuple(sets[index].residual_part for index in of_code),
        error_part=float(np.mean([sets[index].error_part for index in of_code])),
        time_weights=estimate.motion[0].weights,
        is_irc=is_irc,
    )


def follow(
    config: PuschConfig, slot_number: int, result: np.void, tuning: UeTuning
) -> tuple[UeTuning, TimeModel]:
    """Returns the tuning for the slots to come, with weights in time for the motion that a slot
    showed, and that motion.

    Args:
        config: the UE.
        slot_number: the slot that was measured.
        result: its UE_RESULT.
        tuning: what the slot was received with.
    """
    reader = PilotReader([config])
    all_times = symbol_times_s(config.scs_khz, slot_number)
    times = np.interp(reader.positions, np.arange(all_times.size), all_times)
    power = result["position_power"][: times.size].astype(np.float64)
    products = np.diag(power).astype(np.complex128)
    for (one, other), (real, imaginary) in zip(PAIRS, result["product"], strict=True):
        if other < times.size:
            products[one, other] = complex(real, imaginary)
            products[other, one] = complex(real, -imaginary)
    noise = float(result["noise_var"]) * reader.noise_factor
    motion = fit_products(products, times, all_times, noise * tuning.error_part)
    return replace(tuning, time_weights=motion.weights), motion
