"""The uplink of a slot on the GPU: PUSCH of many cells from resource grids to transport blocks.

A program is prepared for slots that are like given ones; `UplinkTables` then writes the tables of
any slot that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu import decode_plan
from phy.gpu.decode_limits import (
    CodedTb,
    DecodeLimits,
    DecoderEffort,
    coded_tb,
    decode_limits,
)
from phy.gpu.decode_plan import DecodeShape, Placed
from phy.gpu.front_end_layout import (
    UE_DESCRIPTOR,
    UePlacement,
    UeTuning,
    channel_values,
    check_supported,
    codes,
    describe,
    pilot_words,
    scrambling_words,
)
from phy.gpu.front_end_plan import FrontEndLimits, front_end_program
from phy.gpu.program import Program, joined, word_of
from phy.gpu.transport import SoftBuffer
from phy.pusch.config import PuschConfig
from phy.shared_channel.config import N_SYMBOLS

_WORD = word_of(UE_DESCRIPTOR)

_PLACES = [
    _WORD[name]
    for name in ("grid_offset", "pilot_offset", "channel_offset", "scrambling_offset", "llr_offset")
]
_KEPT_SHAPES = 256

MAX_FILTER_SETS = 2
"""Of one UE: with and without a partner on its pilots."""


@dataclass(frozen=True, eq=False)
class UplinkUe:
    """A UE's allocation, made once and used in many slots.

    Two of them are never equal: what is known of one is looked up by its identity.

    Attributes:
        cell: index of its cell.
        config: the allocation; its `slot_number` does not matter.
    """

    cell: int
    config: PuschConfig

    def __post_init__(self) -> None:
        check_supported(self.config)

    @cached_property
    def tb(self) -> CodedTb:
        """The transport block's tables."""
        return coded_tb(self.config.sch)

    @cached_property
    def record(self) -> npt.NDArray[np.void]:
        """Its UE_DESCRIPTOR[1], but for its place, its slot and what is learnt about it."""
        n_codes = len(codes(self.config))
        n_positions = len(self.config.dmrs_symbols) // self.config.dmrs_length
        unknown = UeTuning(
            filter_sets=(0,) * n_codes,
            residual_parts=(1.0,) * n_codes,
            error_part=1.0,
            time_weights=np.zeros((N_SYMBOLS, n_positions), np.complex64),
        )
        return describe(self.config, UePlacement(), unknown)

    @cached_property
    def n_pilot_words(self) -> int:
        """Words of its packed pilots."""
        return len(self.config.dmrs_symbols) * pilot_words(self.config)

    @cached_property
    def n_channel(self) -> int:
        """Values of its channel estimates."""
        return channel_values(self.config)

    @cached_property
    def n_scrambling_words(self) -> int:
        """Words of its scrambling sequence."""
        return scrambling_words(self.config)


@dataclass(frozen=True)
class CellGrid:
    """The resource grid of a cell.

    Attributes:
        n_rx: receive antennas.
        n_prb: PRBs of the carrier.
    """

    n_rx: int
    n_prb: int

    @property
    def n_samples(self) -> int:
        """Samples of a slot."""
        return self.n_rx * N_SYMBOLS * 12 * self.n_prb


@dataclass(frozen=True)
class UplinkLimits:
    """The most that a slot may hold.

    Attributes:
        cells: the cells' grids.
        front_end: of the front end.
        decode: of the decoder.
    """

    cells: tuple[CellGrid, ...]
    front_end: FrontEndLimits
    decode: DecodeLimits

    @cached_property
    def grid_starts(self) -> tuple[int, ...]:
        """Samples before each cell's grid."""
        return tuple(np.cumsum([0, *(cell.n_samples for cell in self.cells)])[:-1].tolist())


def uplink_limits(
    cells: Sequence[CellGrid],
    slots: Sequence[Sequence[UplinkUe]],
    *,
    n_soft_buffers: int,
    has_irc: bool = False,
    spare_rows: bool = False,
) -> UplinkLimits:
    """Returns limits that just hold each of `slots`.

    Args:
        cells: the cells' grids.
        slots: the UEs of slots that are to be received.
        n_soft_buffers: soft buffers for HARQ.
        has_irc: UEs may ask for whitening.
        spare_rows: make room for retransmissions that are combined over all of the circular buffer.

    Raises:
        InvalidInputError: no UE, an unknown cell, or a UE beyond its cell's grid.
    """
    for ue in {id(ue): ue for slot in slots for ue in slot}.values():
        check_cell(cells, ue)
    decode = decode_limits(
        [[ue.config.sch for ue in slot] for slot in slots], n_soft_buffers, spare_rows
    )
    every = [ue for slot in slots for ue in slot]
    front_end = FrontEndLimits(
        n_ues=decode.n_tbs,
        n_prb=max(ue.config.n_prb for ue in every),
        n_rx=tuple(sorted({cell.n_rx for cell in cells})),
        n_filter_sets=MAX_FILTER_SETS * decode.n_tbs,
        n_samples=sum(cell.n_samples for cell in cells),
        n_channel=max(sum(ue.n_channel for ue in slot) for slot in slots),
        n_coded_bits=max(ue.config.sch.n_coded_bits for ue in every),
        n_llr=decode.n_llr,
        n_pilot_words=max(sum(ue.n_pilot_words for ue in slot) for slot in slots),
        n_scrambling_words=max(sum(ue.n_scrambling_words for ue in slot) for slot in slots),
        has_irc=has_irc,
    )
    return UplinkLimits(tuple(cells), front_end, decode)


def check_cell(cells: Sequence[CellGrid], ue: UplinkUe) -> None:
    """Raises InvalidInputError unless the UE's carrier is its cell's grid."""
    if not 0 <= ue.cell < len(cells):
        raise InvalidInputError("cell", f"must lie in [0, {len(cells) - 1}], got {ue.cell}")
    cell, config = cells[ue.cell], ue.config
    if (config.n_rx, config.n_subcarriers) != (cell.n_rx, 12 * cell.n_prb):
        raise InvalidInputError(
            "config",
            f"has {config.n_rx} antennas and a carrier of {config.n_subcarriers // 12} PRB, "
            f"cell {ue.cell} has {cell.n_rx} and {cell.n_prb}",
        )


def uplink_program(limits: UplinkLimits) -> Program:
    """Returns the program.

    Inputs are samples (float16[n, 2], the cells' grids) and what `UplinkTables` writes; outputs
    those of the decoder and results (UE_RESULT). Taps are written when filters change.
    """
    return joined(front_end_program(limits.front_end), decode_plan.decode_program(limits.decode))


@dataclass(frozen=True)
class UplinkJob:
    """One transport block to receive.

    Attributes:
        ue: the allocation.
        words: of its record: `tuned_record` as int32.
        soft_buffer: where its soft values are kept.
    """

    ue: UplinkUe
    words: npt.NDArray[np.int32]
    soft_buffer: SoftBuffer


def tuned_record(ue: UplinkUe, tuning: UeTuning, first_row: int) -> npt.NDArray[np.int32]:
    """Returns a UE's record, UE_DESCRIPTOR[1], with what is known about it entered, as words.

    Args:
        ue: the allocation.
        tuning: its filter sets counted from `first_row` on.
        first_row: of its filter sets in the table of taps.
    """
    record = ue.record.copy()
    fields = record[0]
    for index, (filter_set, part) in enumerate(
        zip(tuning.filter_sets, tuning.residual_parts, strict=True)
    ):
        fields["code_filter"][index] = first_row + filter_set
        fields["residual_part"][index] = max(part, 1e-3)
    weights = tuning.time_weights
    fields["time_weights"][:, : weights.shape[1], 0] = weights.real
    fields["time_weights"][:, : weights.shape[1], 1] = weights.imag
    fields["noise_var"] = -1.0 if tuning.noise_var is None else tuning.noise_var
    fields["is_irc"] = tuning.is_irc
    return record.view(np.int32)


@dataclass(frozen=True)
class _Shape:
    """What slots of the same UEs have in common: `columns` are the words of _PLACES."""

    decode: DecodeShape
    columns: npt.NDArray[np.int64]


class UplinkTables:
    """Writes the tables of slots; the shapes of the last ones are kept, as grants repeat."""

    def __init__(self, limits: UplinkLimits) -> None:
        self.limits = limits
        self._shapes: dict[tuple[Any, ...], _Shape] = {}

    def fill(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        jobs: Sequence[UplinkJob],
        slot_number: int,
        effort: DecoderEffort | None = None,
    ) -> Placed:
        """Writes the tables of a slot; nothing is written if it does not fit.

        Args:
            inputs: host arrays of the program's inputs.
            jobs: what to receive, one UE on a resource element; each has passed `check_cell`.
            slot_number: within the frame.
            effort: of the decoder.

        Raises:
            InvalidInputError: the slot is beyond the limits.
        """
        ues = tuple(job.ue for job in jobs)
        n_filled = tuple(job.soft_buffer.n_filled for job in jobs)
        key = (ues, n_filled, effort)
        shape = self._shapes.get(key)
        if shape is None:
            shape = _shape(self.limits, ues, n_filled, effort)
            if len(self._shapes) == _KEPT_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = shape
        decode_plan.fill(inputs, shape.decode, [job.soft_buffer.at for job in jobs])
        # As words: NumPy takes milliseconds to put structured arrays together.
        words = inputs["ues"].view(np.int32).reshape(len(inputs["ues"]), -1)
        words[len(jobs) :] = 0
        if jobs:
            mine = words[: len(jobs)]
            mine[...] = [job.words for job in jobs]
            mine[:, _PLACES] = shape.columns
            mine[:, _WORD["slot_number"]] = slot_number
        return shape.decode.placed


def _shape(
    limits: UplinkLimits,
    ues: tuple[UplinkUe, ...],
    n_filled: tuple[int, ...],
    effort: DecoderEffort | None,
) -> _Shape:
    front = limits.front_end
    _check_apart(ues)
    pilots = _ends([ue.n_pilot_words for ue in ues])
    channel = _ends([ue.n_channel for ue in ues])
    scrambling = _ends([ue.n_scrambling_words for ue in ues])
    for index, ue in enumerate(ues):
        _check("PRB", index, ue.config.n_prb, front.n_prb)
        _check("coded bits", index, ue.config.sch.n_coded_bits, front.n_coded_bits)
    last = len(ues) - 1
    _check("words of pilots", last, int(pilots[-1]), front.n_pilot_words)
    _check("channel estimates", last, int(channel[-1]), front.n_channel)
    _check("words of scrambling", last, int(scrambling[-1]), front.n_scrambling_words)
    decode = decode_plan.decode_shape(limits.decode, [ue.tb for ue in ues], n_filled, effort)
    grids = [limits.grid_starts[ue.cell] for ue in ues]
    columns = (grids, pilots[:-1], channel[:-1], scrambling[:-1], decode.placed.first_llr)
    return _Shape(decode, np.array(columns, np.int64).T.reshape(len(ues), len(_PLACES)))


def _check_apart(ues: Sequence[UplinkUe]) -> None:
    """Raises InvalidInputError if two UEs of a cell share a PRB: the kernels separate none."""
    taken: dict[int, list[slice]] = {}
    for index, ue in enumerate(ues):
        mine = ue.config.subcarriers
        assert isinstance(mine, slice)  # check_supported
        for other in taken.setdefault(ue.cell, []):
            if mine.start < other.stop and other.start < mine.stop:
                raise InvalidInputError(
                    f"jobs[{index}]",
                    f"shares PRBs of cell {ue.cell} with another UE",
                    remedy="receive multi-user MIMO with phy.PuschSlotReceiver",
                )
        taken[ue.cell].append(mine)


def _check(what: str, index: int, found: int, most: int) -> None:
    if found > most:
        raise InvalidInputError(
            f"jobs[{index}]",
            f"{found} {what}, room is for {most}",
            remedy="prepare the cell group for slots like this one",
        )


def _ends(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *sizes])
