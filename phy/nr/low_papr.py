"""Low-PAPR sequences, and which of them PUSCH uses as DM-RS with transform precoding.

They have magnitude 1 on every subcarrier and a low peak in time ("type 1").

Spec: TS 38.211 5.2.2, 6.4.1.1.1.2 (PUSCH DM-RS)
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_integer, check_range
from phy.nr import scrambling

N_GROUPS = 30
"""Sequence groups u of either type."""

_STEP = 6  # lengths are m N_sc^RB / 2^delta; half a resource block is the least
_LONGEST = 12 * 275
_TWO_NUMBERS = 72  # from six resource blocks on, a group has two base sequences of each length
_SYMBOLS_PER_SLOT = 14


def sequence(
    group: int, number: int, length: int, cyclic_shift: float = 0.0
) -> npt.NDArray[np.complex64]:
    """Returns r_{u,v}^{(alpha,delta)}(n), a type 1 sequence: complex64[length], magnitude 1.

    Args:
        group: u, 0 to 29.
        number: v, 0; 0 or 1 for lengths of 72 and more.
        length: M_ZC, a multiple of 6.
        cyclic_shift: alpha in radians.

    Raises:
        InvalidInputError: a value out of range.

    Spec: TS 38.211 5.2.2
    """
    check_integer("group", group, 0, N_GROUPS - 1)
    _check_length(length)
    check_integer("number", number, 0, 1 if length >= _TWO_NUMBERS else 0)
    check_range("cyclic_shift", cyclic_shift, -1e6, 1e6)
    base = _base_sequence(int(group), int(number), int(length))
    shifted: npt.NDArray[np.complex128] = base * np.exp(1j * cyclic_shift * np.arange(length))
    return shifted.astype(np.complex64)


def pusch_group_and_number(
    n_id_rs: int,
    slot_number: int,
    symbol: int,
    group_hopping: bool,
    sequence_hopping: bool,
    length: int,
) -> tuple[int, int]:
    """Returns (u, v) of the DM-RS of PUSCH with transform precoding.

    Args:
        n_id_rs: n_ID^RS, 0 to 1007 (nPUSCH-Identity, or the cell identity).
        slot_number: slot within the frame.
        symbol: symbol within the slot; the first one of double-symbol DM-RS.
        group_hopping: the group changes with every symbol.
        sequence_hopping: the number within the group does; not both.
        length: DM-RS subcarriers, 6 in every PRB.

    Raises:
        InvalidInputError: a value out of range, or both kinds of hopping.

    Spec: TS 38.211 6.4.1.1.1.2
    """
    check_integer("n_id_rs", n_id_rs, 0, 1007)
    check_integer("slot_number", slot_number, 0, 159)
    check_integer("symbol", symbol, 0, _SYMBOLS_PER_SLOT - 1)
    _check_length(length)
    if group_hopping and sequence_hopping:
        raise InvalidInputError("sequence_hopping", "must not be combined with group_hopping")
    position = _SYMBOLS_PER_SLOT * slot_number + symbol
    shift, number = 0, 0
    if group_hopping:
        bits = scrambling.sequence(n_id_rs // N_GROUPS, 8 * position + 8)[-8:]
        shift = int(bits @ (1 << np.arange(8))) % N_GROUPS
    elif sequence_hopping and length >= _TWO_NUMBERS:
        number = int(scrambling.sequence(n_id_rs, position + 1)[-1])
    return (shift + n_id_rs) % N_GROUPS, number


def _check_length(length: int) -> None:
    check_integer("length", length, _STEP, _LONGEST)
    if length % _STEP:
        raise InvalidInputError("length", f"must be a multiple of {_STEP}, got {length}")


@lru_cache(maxsize=256)
def _base_sequence(group: int, number: int, length: int) -> npt.NDArray[np.complex128]:
    n = np.arange(length)
    if length < 30:
        base = np.exp(1j * math.pi / 4 * np.array(_short_phases()[length, group]))
    elif length == 30:
        # The phase repeats after 2 * 31 steps of pi / 31; whole numbers keep it exact.
        steps = (group + 1) * (n + 1) * (n + 2) % (2 * 31)
        base = np.exp(-1j * math.pi / 31 * steps)
    else:
        n_zc = _largest_prime_below(length)
        q_bar = n_zc * (group + 1) / 31
        q = math.floor(q_bar + 0.5) + number * (-1) ** math.floor(2 * q_bar)
        m = n % n_zc
        base = np.exp(-1j * math.pi / n_zc * (q * m * (m + 1) % (2 * n_zc)))
    base.setflags(write=False)
    return base


@lru_cache(maxsize=1)
def _short_phases() -> dict[tuple[int, int], list[int]]:
    """phi(n) by length and group. Spec: TS 38.211 tables 5.2.2.2-1 to -4"""
    text = resources.files("phy.nr").joinpath("data/low_papr_phi.csv").read_text("utf-8")
    rows = [
        [int(field) for field in line.split(",")]
        for line in text.splitlines()
        if not line.startswith("#")
    ]
    return {(row[0], row[1]): row[2:] for row in rows}


def _largest_prime_below(n: int) -> int:
    def is_prime(candidate: int) -> bool:
        return all(candidate % divisor for divisor in range(2, math.isqrt(candidate) + 1))

    return next(candidate for candidate in range(n - 1, 1, -1) if is_prime(candidate))
