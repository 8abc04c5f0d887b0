"""The downlink of a slot on the GPU: PDSCH of many cells from transport blocks to resource grids.

    downlink_sequences -> tb_crc -> encode -> map_downlink

A program is prepared for slots that are like given ones; `DownlinkTables` then writes the tables of
any slot that fits. Every slot writes the cells' grids completely.

Cost of the mapping for 20 cells of 273 PRB and 4 antennas: it writes 14.7 MB and reads as much, 10
us at 3 TB/s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu import encode_plan, gold
from phy.gpu.downlink_layout import MAX_LAYERS, RECEIVER, DownlinkUe, SendGrid
from phy.gpu.encode_plan import EncodeLimits, EncodeShape, encode_limits
from phy.gpu.front_end_layout import CHUNK_WORDS
from phy.gpu.program import Buffer, Launch, Program, joined, word_of
from phy.shared_channel.config import N_SYMBOLS

_THREADS = 128
_KEPT_SHAPES = 256
_WORD = word_of(RECEIVER)
_PLACES = [_WORD[name] for name in ("symbols_at", "pilot_at", "scrambling_at")]


@dataclass(frozen=True)
class DownlinkLimits:
    """The most that a slot may hold.

    Attributes:
        cells: the cells' grids.
        encode: of the encoder.
        n_scrambling_words, n_pilot_words: of all UEs.
        n_chunks: chunks of pseudo-random bits of one UE.
        n_weight_sets: sets of precoding weights of all UEs.
        is_copied_out: the grids are copied to the host; otherwise they stay on the GPU.
    """

    cells: tuple[SendGrid, ...]
    encode: EncodeLimits
    n_scrambling_words: int
    n_pilot_words: int
    n_chunks: int
    n_weight_sets: int
    is_copied_out: bool = True

    @cached_property
    def grid_starts(self) -> tuple[int, ...]:
        """Samples before each cell's grid, and those of all."""
        return tuple(np.cumsum([0, *(cell.n_samples for cell in self.cells)]).tolist())

    @cached_property
    def prb_starts(self) -> tuple[int, ...]:
        """PRBs before each cell's, and those of all."""
        return tuple(np.cumsum([0, *(cell.n_prb for cell in self.cells)]).tolist())

    @property
    def max_antennas(self) -> int:
        """Of any cell."""
        return max(cell.n_antennas for cell in self.cells)


def downlink_limits(
    cells: Sequence[SendGrid],
    slots: Sequence[Sequence[DownlinkUe]],
    *,
    is_copied_out: bool = True,
) -> DownlinkLimits:
    """Returns limits that just hold each of `slots`.

    Args:
        cells: the cells' grids.
        slots: the UEs of slots that are to be sent.
        is_copied_out: the grids are copied to the host.

    Raises:
        InvalidInputError: no UE, an unknown cell, or a UE beyond its cell's grid.
    """
    for ue in {id(ue): ue for slot in slots for ue in slot}.values():
        check_cell(cells, ue)
    encode = encode_limits([[ue.config.sch for ue in slot] for slot in slots])
    return DownlinkLimits(
        cells=tuple(cells),
        encode=encode,
        n_scrambling_words=max(sum(ue.n_scrambling_words for ue in slot) for slot in slots),
        n_pilot_words=max(sum(ue.n_pilot_words for ue in slot) for slot in slots),
        n_chunks=max(_n_chunks(ue) for slot in slots for ue in slot),
        n_weight_sets=max(sum(_n_sets(ue) for ue in slot) for slot in slots),
        is_copied_out=is_copied_out,
    )


def check_cell(cells: Sequence[SendGrid], ue: DownlinkUe) -> None:
    """Raises InvalidInputError unless the UE's carrier is its cell's grid, with antennas enough."""
    if not 0 <= ue.cell < len(cells):
        raise InvalidInputError("cell", f"must lie in [0, {len(cells) - 1}], got {ue.cell}")
    cell, config = cells[ue.cell], ue.config
    if config.n_subcarriers != 12 * cell.n_prb:
        raise InvalidInputError(
            "config",
            f"has a carrier of {config.n_subcarriers // 12} PRB, cell {ue.cell} has {cell.n_prb}",
        )
    if _n_ports(ue) > cell.n_antennas:
        raise InvalidInputError(
            "config",
            f"needs {_n_ports(ue)} antenna ports, cell {ue.cell} has {cell.n_antennas}",
        )


def downlink_program(limits: DownlinkLimits) -> Program:
    """Returns the program.

    Inputs are what `DownlinkTables` writes; the output, if it is copied out, is grids,
    float16[n, 2]: the cells' grids [antenna, 14, subcarrier] one after the other.
    """
    n_ues = limits.encode.n_tbs
    # The last bits' words are read in twos.
    n_scrambling_words = limits.n_scrambling_words + 1
    sequences = Program(
        buffers={
            "receivers": Buffer((n_ues,), RECEIVER),
            "jumps": Buffer((31, gold.N_CHUNKS), np.uint32),
            "first_register": Buffer((gold.N_CHUNKS, CHUNK_WORDS), np.uint32),
            "sent_pilots": Buffer((limits.n_pilot_words,), np.uint32),
            "scrambling": Buffer((n_scrambling_words,), np.uint32),
        },
        launches=(
            Launch(
                "sequences",
                "downlink",
                "downlink_sequences",
                (-(-limits.n_chunks // _THREADS), n_ues),
                _THREADS,
                (
                    *("receivers", "jumps", "first_register", "sent_pilots", "scrambling"),
                    gold.N_CHUNKS,
                ),
            ),
        ),
        inputs=("receivers",),
        outputs=("scrambling",),
        constants={"jumps": gold.jumps(), "first_register": gold.first_register()},
    )
    encoded = joined(sequences, encode_plan.encode_program(limits.encode, n_scrambling_words))
    return joined(encoded, _mapping(limits))


def _mapping(limits: DownlinkLimits) -> Program:
    cells = np.array(
        [
            (grid, cell.n_prb, cell.n_antennas, prb)
            for cell, grid, prb in zip(
                limits.cells, limits.grid_starts, limits.prb_starts, strict=False
            )
        ],
        np.int32,
    )
    weights = (max(1, limits.n_weight_sets), limits.max_antennas, MAX_LAYERS, 2)
    width = 12 * max(cell.n_prb for cell in limits.cells)
    arguments = ("send_cells", "prbs", "receivers", "symbols", "sent_pilots", "weights", "grids")
    return Program(
        buffers={
            "send_cells": Buffer(cells.shape, np.int32),
            "prbs": Buffer((limits.prb_starts[-1], 4), np.int32),
            "weights": Buffer(weights, np.float32),
            "symbols": Buffer((limits.encode.n_symbols, 2), np.float16),
            "grids": Buffer((limits.grid_starts[-1], 2), np.float16),
        },
        launches=(
            Launch(
                "map",
                "downlink",
                "map_downlink",
                (-(-width // _THREADS), N_SYMBOLS, len(limits.cells)),
                _THREADS,
                (*arguments, limits.max_antennas),
            ),
        ),
        inputs=("symbols", "prbs", "weights"),
        outputs=("grids",) if limits.is_copied_out else (),
        constants={"send_cells": cells},
    )


@dataclass(frozen=True)
class _Shape:
    """What slots of the same UEs have in common: `columns` are the words of _PLACES."""

    encode: EncodeShape
    words: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int64]
    prbs: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class DownlinkTables:
    """Writes the tables of slots; the shapes of the last ones are kept, as grants repeat."""

    def __init__(self, limits: DownlinkLimits) -> None:
        self.limits = limits
        self._shapes: dict[tuple[DownlinkUe, ...], _Shape] = {}

    def fill(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        ues: Sequence[DownlinkUe],
        tbs: Sequence[npt.NDArray[np.uint8] | None],
        slot_number: int,
    ) -> None:
        """Writes a slot; nothing is written if it does not fit.

        Args:
            inputs: host arrays of the program's inputs.
            ues: what to send, one UE on a PRB of a cell; each has passed `check_cell`.
            tbs: their transport blocks, uint8[ceil(A / 8)], the first bit highest; None: it has
                been written to its room.
            slot_number: within the frame.

        Raises:
            InvalidInputError: the slot is beyond the limits, two UEs share a PRB, or a transport
                block has the wrong size.
        """
        key = tuple(ues)
        for index, (ue, tb) in enumerate(zip(ues, tbs, strict=True)):
            if tb is not None and (tb.shape != (ue.tb.n_bytes,) or tb.dtype != np.uint8):
                raise InvalidInputError(
                    f"tbs[{index}]",
                    f"must be uint8[{ue.tb.n_bytes}], got {tb.dtype}{list(tb.shape)}",
                )
        shape = self._shapes.get(key)
        if shape is None:
            shape = _shape(self.limits, key)
            if len(self._shapes) == _KEPT_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = shape
        encode_plan.fill(inputs, shape.encode, shape.columns[:, 2].tolist())
        words = inputs["receivers"].view(np.int32).reshape(len(inputs["receivers"]), -1)
        words[len(ues) :] = 0
        mine = words[: len(ues)]
        mine[...] = shape.words
        mine[:, _PLACES] = shape.columns
        mine[:, _WORD["slot_number"]] = slot_number
        inputs["prbs"][...] = shape.prbs
        inputs["weights"][: len(shape.weights)] = shape.weights
        for tb, at in zip(tbs, shape.encode.tb_at.tolist(), strict=True):
            if tb is not None:
                inputs["tbs"][at : at + tb.size] = tb


def rooms(
    inputs: Mapping[str, npt.NDArray[Any]], ues: Sequence[DownlinkUe]
) -> list[npt.NDArray[np.uint8]]:
    """Returns where the transport blocks of a slot of `ues` lie: uint8[ceil(A / 8)] each.

    Raises:
        InvalidInputError: there is not room for all of them.
    """
    starts = np.cumsum([0, *(ue.tb.n_room for ue in ues)]).tolist()
    if starts[-1] + 16 > inputs["tbs"].size:
        raise InvalidInputError(
            "ues",
            f"have {starts[-1]} bytes of transport blocks, room is for {inputs['tbs'].size - 16}",
            remedy="prepare the cell group for slots like this one",
        )
    return [inputs["tbs"][at : at + ue.tb.n_bytes] for at, ue in zip(starts, ues, strict=False)]


def _shape(limits: DownlinkLimits, ues: tuple[DownlinkUe, ...]) -> _Shape:
    encode = encode_plan.encode_shape(limits.encode, [ue.tb for ue in ues])
    pilots = np.cumsum([0, *(ue.n_pilot_words for ue in ues)])
    scrambling = np.cumsum([0, *(ue.n_scrambling_words for ue in ues)])
    sets = np.cumsum([0, *(_n_sets(ue) for ue in ues)])
    for what, found, most in (
        ("words of pilots", pilots[-1], limits.n_pilot_words),
        ("words of scrambling", scrambling[-1], limits.n_scrambling_words),
        ("chunks of bits", max((_n_chunks(ue) for ue in ues), default=0), limits.n_chunks),
        ("sets of precoding weights", sets[-1], limits.n_weight_sets),
    ):
        if found > most:
            raise InvalidInputError(
                "ues",
                f"have {found} {what}, room is for {most}",
                remedy="prepare the cell group for slots like this one",
            )
    prbs = np.full((limits.prb_starts[-1], 4), -1, np.int32)
    weights = np.zeros((int(sets[-1]), limits.max_antennas, MAX_LAYERS, 2), np.float32)
    for index, ue in enumerate(ues):
        mine = limits.prb_starts[ue.cell] + ue.prbs
        if (prbs[mine, 0] >= 0).any():
            raise InvalidInputError(f"ues[{index}]", "is on another UE's PRBs")
        prbs[mine, 0], prbs[mine, 1] = index, np.arange(ue.prbs.size)
        prbs[mine, 2] = ue.prbs - ue.prbs[0]
        if ue.weights is not None:
            prbs[mine, 3] = int(sets[index]) + ue.set_of_prb
            _, n_antennas, n_layers = ue.weights.shape
            own = weights[sets[index] : sets[index + 1], :n_antennas, :n_layers]
            own[..., 0], own[..., 1] = ue.weights.real, ue.weights.imag
    columns = np.array((encode.symbols_at, pilots[:-1], scrambling[:-1]), np.int64).T
    words = np.zeros((len(ues), RECEIVER.itemsize // 4), np.int32)
    if ues:
        words[...] = [ue.record.view(np.int32) for ue in ues]
    return _Shape(encode, words, columns.reshape(len(ues), len(_PLACES)), prbs, weights)


def _n_ports(ue: DownlinkUe) -> int:
    return ue.config.n_layers if ue.weights is None else ue.weights.shape[1]


def _n_sets(ue: DownlinkUe) -> int:
    return 0 if ue.weights is None else len(ue.weights)


def _n_chunks(ue: DownlinkUe) -> int:
    return (ue.n_pilot_words + ue.n_scrambling_words) // CHUNK_WORDS
