"""From soft bits to transport blocks: the program of launches, and its tables for one slot.

    rate_recover -> ldpc_decode, one launch for each group of code blocks -> check_and_join

Code blocks of one base graph, lifting size and number of rows are a group. A group has a fixed
capacity and a fixed place among all code blocks; places that a slot leaves empty are marked -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu.decode_limits import COLUMN, CodedTb, DecodeLimits, DecoderEffort, DecoderGroup
from phy.gpu.ldpc import decoder_control
from phy.gpu.ldpc_layout import ldpc_layout
from phy.gpu.program import Buffer, Launch, Part, Program
from phy.gpu.receive import JOIN_THREADS, RECOVER_THREADS, stage_bytes
from phy.gpu.transport import Reception, powers
from phy.nr.ldpc_decoder import best_normalisation


@dataclass(frozen=True)
class Placed:
    """Where a slot's transport blocks lie: int64[tb] each.

    Attributes:
        first_llr: first LLR.
        tb_at: first byte.
        first_block: first code block.
        n_filled: places of each code block that the soft buffer holds after the slot.
    """

    first_llr: npt.NDArray[np.int64]
    tb_at: npt.NDArray[np.int64]
    first_block: npt.NDArray[np.int64]
    n_filled: npt.NDArray[np.int64]


def decode_program(limits: DecodeLimits) -> Program:
    """Returns the program for slots within `limits`.

    Inputs are llr (int8) and the tables that `fill` writes; outputs tb_bytes (uint8, packed, the
    first bit highest), crc_ok (uint8[tb]), block_ok (uint8[cb]) and iterations (int32[cb]).
    """
    n_blocks = limits.first_blocks[-1]
    n_soft = (limits.n_soft_buffers + limits.n_tbs) * limits.soft_buffer_bytes
    tables = {
        "receptions": Buffer((limits.n_tbs, len(Reception._fields)), np.int32),
        "tb_of_block": Buffer((n_blocks,), np.int32),
        "llr_at": Buffer((n_blocks,), np.int32),
        "tb_weight": Buffer((n_blocks,), np.uint32),
        "decoder_control": Buffer((len(limits.groups), 4), np.int32),
    }
    outputs = {
        "tb_bytes": Buffer((limits.n_tb_bytes,), np.uint8),
        "crc_ok": Buffer((limits.n_tbs,), np.uint8),
        "block_ok": Buffer((n_blocks,), np.uint8),
        "iterations": Buffer((n_blocks,), np.int32),
    }
    between = {
        "llr": Buffer((limits.n_llr,), np.int8),
        "n_places": Buffer((1,), np.int32),
        "powers": Buffer(powers().shape, np.uint32),
        "soft": Buffer((n_soft,), np.int8),
        "bits": Buffer((limits.first_words[-1],), np.uint32),
        "parity_ok": Buffer((n_blocks,), np.uint8),
        "verdicts": Buffer((limits.n_tbs, 4), np.uint32),
    }
    return Program(
        buffers={**tables, **outputs, **between},
        launches=_launches(limits),
        inputs=("llr", *tables),
        outputs=tuple(outputs),
        constants={"powers": powers(), "n_places": np.array([n_blocks], np.int32)},
    )


@dataclass(frozen=True)
class DecodeShape:
    """The tables of slots with the same transport blocks, but for where soft values are kept.

    Attributes:
        placed: where the transport blocks lie.
        receptions: int32[tb, 24].
        tb_of_block, tb_weight, control: the inputs of these names.
        place: int64[cb], of each code block in use.
        tb: int64[cb], its transport block.
        soft_ahead: int32[cb], its soft values from the transport block's on, in units of 16 bytes.
    """

    placed: Placed
    receptions: npt.NDArray[np.int32]
    tb_of_block: npt.NDArray[np.int32]
    tb_weight: npt.NDArray[np.uint32]
    control: npt.NDArray[np.int32]
    place: npt.NDArray[np.int64]
    tb: npt.NDArray[np.int64]
    soft_ahead: npt.NDArray[np.int64]


def decode_shape(
    limits: DecodeLimits,
    tbs: Sequence[CodedTb],
    n_filled: Sequence[int],
    effort: DecoderEffort | None = None,
) -> DecodeShape:
    """Makes the tables of a slot.

    Args:
        limits: of the program.
        tbs: transport blocks, whose LLRs lie one behind the other.
        n_filled: places of each code block that the soft buffer of each holds already.
        effort: of the decoder.

    Raises:
        InvalidInputError: the slot is beyond the limits.
    """
    n = len(tbs)
    first_llr = _ends([tb.n_llr for tb in tbs])
    tb_at = _ends([tb.n_tb_bytes for tb in tbs])
    _check(limits, n, int(first_llr[-1]), int(tb_at[-1]))
    group, n_after = _grouped(limits, tbs, n_filled)
    counts = np.array([tb.n_blocks for tb in tbs], np.int64)
    first_block, bits_at, of_group = _positions(limits, group, counts)
    table = np.zeros((n, len(Reception._fields)), np.int32)
    if n:
        table[:] = [tb.row for tb in tbs]
    table[:, COLUMN["first_llr"]], table[:, COLUMN["tb_at"]] = first_llr[:-1], tb_at[:-1]
    table[:, COLUMN["first_block"]], table[:, COLUMN["bits_at"]] = first_block, bits_at
    table[:, COLUMN["n_before"]] = n_filled
    table[:, COLUMN["n_after"]] = n_after
    tb = np.repeat(np.arange(n), counts)
    index = np.arange(tb.size) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.repeat(first_block, counts) + index
    tb_of_block = np.full(limits.first_blocks[-1], -1, np.int32)
    tb_of_block[place] = tb
    tb_weight = np.zeros(limits.first_blocks[-1], np.uint32)
    if n:
        tb_weight[place] = np.concatenate([tb.tb_weight for tb in tbs])
    control = _control(limits.groups, effort or DecoderEffort()).copy()
    control[:, 0] = of_group
    return DecodeShape(
        placed=Placed(first_llr[:-1], tb_at[:-1], first_block, n_after),
        receptions=table,
        tb_of_block=tb_of_block,
        tb_weight=tb_weight,
        control=control,
        place=place,
        tb=tb,
        soft_ahead=index * table[tb, COLUMN["soft_stride"]],
    )


def fill(
    inputs: Mapping[str, npt.NDArray[Any]], shape: DecodeShape, soft_at: Sequence[int]
) -> None:
    """Writes the tables of a slot.

    Args:
        inputs: host arrays of the program's inputs.
        shape: of the slot.
        soft_at: where each transport block keeps its soft values, in units of 16 bytes.
    """
    table = inputs["receptions"][: len(soft_at)]
    table[...] = shape.receptions
    table[:, COLUMN["soft_at"]] = soft_at
    inputs["tb_of_block"][...] = shape.tb_of_block
    inputs["tb_weight"][...] = shape.tb_weight
    inputs["decoder_control"][...] = shape.control
    inputs["llr_at"][shape.place] = np.asarray(soft_at, np.int64)[shape.tb] + shape.soft_ahead


def _launches(limits: DecodeLimits) -> tuple[Launch, ...]:
    n_blocks = limits.first_blocks[-1]
    out = [
        Launch(
            "recover",
            "rate_recover",
            "rate_recover",
            (n_blocks,),
            RECOVER_THREADS,
            (
                *("llr", "receptions", "tb_of_block", "n_places", "soft"),
                stage_bytes(limits.longest_e_bits),
            ),
            shared_bytes=stage_bytes(limits.longest_e_bits),
        )
    ]
    for number, group in enumerate(limits.groups):
        layout = ldpc_layout(group.base_graph, group.lifting_size, group.n_rows)
        first = limits.first_blocks[number]
        arguments = (
            "soft",
            Part("llr_at", first),
            Part("decoder_control", 4 * number),
            Part("bits", limits.first_words[number]),
            Part("parity_ok", first),
            Part("iterations", first),
        )
        out.append(
            Launch(
                "decode",
                "ldpc_decode",
                "ldpc_decode",
                (layout.n_thread_blocks(group.n_blocks),),
                layout.n_threads,
                arguments,
                layout.prelude(),
                layout.shared_bytes,
            )
        )
    check_arguments = (
        *("bits", "parity_ok", "receptions", "tb_of_block", "tb_weight", "powers", "n_places"),
        *("verdicts", "tb_bytes", "block_ok", "crc_ok"),
    )
    out.append(Launch("check", "crc", "check_and_join", (n_blocks,), JOIN_THREADS, check_arguments))
    return tuple(out)


def _grouped(
    limits: DecodeLimits, tbs: Sequence[CodedTb], n_filled: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each transport block's group, the one of fewest rows that do and that has room; and the
    places of its code blocks that are known then."""
    group = np.zeros(len(tbs), np.int64)
    n_after = np.zeros(len(tbs), np.int64)
    room = [each.n_blocks for each in limits.groups]
    for index, (tb, heard) in enumerate(zip(tbs, n_filled, strict=True)):
        lifting_size = tb.key[1]
        n_rows = max(tb.n_rows, -(-heard // lifting_size) - tb.n_heard_before)
        found = next(
            (
                number
                for number in limits.groups_of.get(tb.key, ())
                if limits.groups[number].n_rows >= n_rows and room[number] >= tb.n_blocks
            ),
            None,
        )
        if found is None:
            raise InvalidInputError(
                f"tbs[{index}]",
                f"no room for {tb.n_blocks} code blocks of base graph {tb.key[0]}, "
                f"lifting size {tb.key[1]}, {n_rows} rows",
                remedy="prepare the cell group for slots like this one",
            )
        group[index] = found
        room[found] -= tb.n_blocks
        n_after[index] = (tb.n_heard_before + limits.groups[found].n_rows) * lifting_size
    return group, n_after


def _positions(
    limits: DecodeLimits, group: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
    """First code block and first word of each transport block, and code blocks in each group."""
    first_block, bits_at = np.zeros_like(counts), np.zeros_like(counts)
    of_group = [0] * len(limits.groups)
    for index, (number, count) in enumerate(zip(group.tolist(), counts.tolist(), strict=True)):
        first_block[index] = limits.first_blocks[number] + of_group[number]
        words = limits.groups[number].words_of_block
        bits_at[index] = limits.first_words[number] + of_group[number] * words
        of_group[number] += count
    return first_block, bits_at, of_group


@lru_cache(maxsize=64)
def _control(groups: tuple[DecoderGroup, ...], effort: DecoderEffort) -> npt.NDArray[np.int32]:
    rows = []
    for group in groups:
        normalisation = best_normalisation(group.base_graph, group.n_rows)
        rows.append(
            decoder_control(0, effort.n_iterations, normalisation, early_stop=effort.early_stop)
        )
    return np.stack(rows)


def _check(limits: DecodeLimits, n_tbs: int, n_llr: int, n_tb_bytes: int) -> None:
    for name, found, most in (
        ("transport blocks", n_tbs, limits.n_tbs),
        ("soft bits", n_llr, limits.n_llr),
        ("bytes of transport blocks", n_tb_bytes, limits.n_tb_bytes),
    ):
        if found > most:
            raise InvalidInputError(
                "tbs",
                f"have {found} {name}, room is for {most}",
                remedy="prepare the cell group for slots like this one",
            )


def _ends(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *sizes])
