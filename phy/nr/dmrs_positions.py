"""Which symbols of a slot carry DM-RS: the tables of TS 38.211, without frequency hopping.

Spec: TS 38.211 6.4.1.1.3 (PUSCH) and 7.4.1.1.2 (PDSCH)
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer

MappingType = Literal["A", "B"]

# Later positions of DM-RS beside l_0 for 0, 1, 2, 3 additional ones. A row holds for all l_d up to
# its first number; None stands for a dash in the table.
_Row: TypeAlias = tuple[int, tuple[tuple[int, ...] | None, ...]]
_NONE: tuple[tuple[int, ...], ...] = ((), (), (), ())
_FOUR = ((), (4,), (4,), (4,))
_DASH = (None, None, None, None)

# Table 6.4.1.1.3-3.
_PUSCH_SINGLE: dict[str, tuple[_Row, ...]] = {
    "A": (
        (3, _DASH),
        (7, _NONE),
        (9, ((), (7,), (7,), (7,))),
        (11, ((), (9,), (6, 9), (6, 9))),
        (12, ((), (9,), (6, 9), (5, 8, 11))),
        (14, ((), (11,), (7, 11), (5, 8, 11))),
    ),
    "B": (
        (4, _NONE),
        (7, _FOUR),
        (9, ((), (6,), (3, 6), (3, 6))),
        (11, ((), (8,), (4, 8), (3, 6, 9))),
        (14, ((), (10,), (5, 10), (3, 6, 9))),
    ),
}
# Table 6.4.1.1.3-4.
_PUSCH_DOUBLE: dict[str, tuple[_Row, ...]] = {
    "A": ((3, _DASH), (9, ((), ())), (12, ((), (8,))), (14, ((), (10,)))),
    "B": ((4, _DASH), (7, ((), ())), (9, ((), (5,))), (11, ((), (7,))), (14, ((), (9,)))),
}
# Table 7.4.1.1.2-3, with l_1 = 11.
_PDSCH_SINGLE: dict[str, tuple[_Row, ...]] = {
    "A": ((2, _DASH), *_PUSCH_SINGLE["A"][1:]),
    "B": (
        (1, _DASH),
        (4, _NONE),
        (7, _FOUR),
        (8, ((), (6,), (3, 6), (3, 6))),
        (10, ((), (7,), (4, 7), (4, 7))),
        (11, ((), (8,), (4, 8), (3, 6, 9))),
        (13, ((), (9,), (5, 9), (3, 6, 9))),
        (14, _DASH),
    ),
}
# Table 7.4.1.1.2-4.
_PDSCH_DOUBLE: dict[str, tuple[_Row, ...]] = {
    "A": _PUSCH_DOUBLE["A"],
    "B": (
        (4, _DASH),
        (7, ((), ())),
        (9, ((), (5,))),
        (11, ((), (7,))),
        (13, ((), (8,))),
        (14, _DASH),
    ),
}


def symbol_positions(
    mapping_type: MappingType,
    start_symbol: int,
    n_symbols: int,
    additional_positions: int,
    type_a_position: int = 2,
    length: int = 1,
) -> tuple[int, ...]:
    """Returns the symbols of the slot that carry PUSCH DM-RS, without frequency hopping.

    Args:
        mapping_type: "A" (positions count from the slot's start) or "B" (from the allocation's).
        start_symbol: first symbol of the allocation.
        n_symbols: symbols of the allocation.
        additional_positions: dmrs-AdditionalPosition, 0 to 3; 0 or 1 with double-symbol DM-RS.
        type_a_position: dmrs-TypeA-Position, 2 or 3.
        length: 1 for single-symbol, 2 for double-symbol DM-RS.

    Returns:
        Symbols in rising order; with `length` 2 both symbols of every pair.

    Raises:
        InvalidInputError: a value out of range, or a combination that the table does not have.

    Spec: TS 38.211 6.4.1.1.3, tables 6.4.1.1.3-3 and -4
    """
    _check(mapping_type, start_symbol, n_symbols, additional_positions, type_a_position, length)
    if mapping_type == "A" and start_symbol != 0:
        raise InvalidInputError("start_symbol", "must be 0 with mapping type A")
    rows = (_PUSCH_SINGLE if length == 1 else _PUSCH_DOUBLE)[mapping_type]
    first = type_a_position if mapping_type == "A" else start_symbol
    duration = n_symbols
    later = _later(rows, duration, additional_positions)
    reference = 0 if mapping_type == "A" else start_symbol
    return _both((first, *(reference + position for position in later)), length)


def pdsch_symbol_positions(
    mapping_type: MappingType,
    start_symbol: int,
    n_symbols: int,
    additional_positions: int,
    type_a_position: int = 2,
    length: int = 1,
) -> tuple[int, ...]:
    """Returns the symbols of the slot that carry PDSCH DM-RS; arguments as `symbol_positions`.

    l_1 is 11 (12 is for sharing a carrier with LTE), and no PDCCH or SS block is in the way.

    Raises:
        InvalidInputError: a value out of range, or a combination that the table does not have.

    Spec: TS 38.211 7.4.1.1.2, tables 7.4.1.1.2-3 and -4
    """
    _check(mapping_type, start_symbol, n_symbols, additional_positions, type_a_position, length)
    rows = (_PDSCH_SINGLE if length == 1 else _PDSCH_DOUBLE)[mapping_type]
    if mapping_type == "B":
        later = _later(rows, n_symbols, additional_positions)
        return _both((start_symbol, *(start_symbol + position for position in later)), length)
    if start_symbol > type_a_position:
        raise InvalidInputError("start_symbol", "must not lie after dmrs_type_a_position")
    if n_symbols < 3:
        raise InvalidInputError("n_symbols", "must be at least 3 with mapping type A")
    duration = start_symbol + n_symbols
    if type_a_position == 3 and duration in (3, 4):
        raise InvalidInputError("dmrs_type_a_position", "3 needs more than 4 symbols")
    return _both((type_a_position, *_later(rows, duration, additional_positions)), length)


def _check(
    mapping_type: str, start: int, n_symbols: int, additional: int, type_a: int, length: int
) -> None:
    check_choice("mapping_type", mapping_type, ("A", "B"))
    check_integer("start_symbol", start, 0, 13)
    check_integer("n_symbols", n_symbols, 1, 14 - start)
    check_integer("dmrs_additional_positions", additional, 0, 3)
    check_choice("dmrs_type_a_position", type_a, (2, 3))
    check_integer("dmrs_length", length, 1, 2)
    if length == 2 and additional > 1:
        raise InvalidInputError("dmrs_additional_positions", "must be 0 or 1 with dmrs_length 2")
    if mapping_type == "A" and additional == 3 and type_a != 2:
        raise InvalidInputError("dmrs_additional_positions", "3 needs dmrs_type_a_position 2")


def _later(rows: tuple[_Row, ...], duration: int, additional: int) -> tuple[int, ...]:
    row = next(positions for longest, positions in rows if duration <= longest)
    later = row[additional]
    if later is None:
        raise InvalidInputError("n_symbols", f"no DM-RS is defined for l_d = {duration} symbols")
    return later


def _both(positions: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(position + k for position in positions for k in range(length))
