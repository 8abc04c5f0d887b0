"""Precoding matrices of codebook-based PUSCH for one, two and four antenna ports.

Spec: TS 38.211 6.3.1.5
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer

# One matrix a TPMI, columns (layers) parted by "/"; in a column one character a port:
# "-" is -1, "j" the imaginary unit, "J" its negative.
_ENTRY = {"0": 0, "1": 1, "-": -1, "j": 1j, "J": -1j}

# Table 6.3.1.5-1.
_TWO_PORTS_1_LAYER = "10 01 11 1- 1j 1J"
# TPMI 0 to 11 of tables 6.3.1.5-2 and -3: one port each, then ports 0 and 2, then ports 1 and 3.
_FOUR_PORTS_1_LAYER = "1000 0100 0010 0001 1010 10-0 10j0 10J0 0101 010- 010j 010J"
# Table 6.3.1.5-2.
_FOUR_PORTS_1_LAYER_TRANSFORM = f"""{_FOUR_PORTS_1_LAYER}
    111- 11jj 11-1 11JJ 1j1j 1jj1 1j-J 1jJ-
    1-11 1-jJ 1--- 1-Jj 1J1J 1Jj- 1J-j 1JJ1"""
# Table 6.3.1.5-3.
_FOUR_PORTS_1_LAYER_CP_OFDM = f"""{_FOUR_PORTS_1_LAYER}
    1111 11jj 11-- 11JJ 1j1j 1jj- 1j-J 1jJ1
    1-1- 1-jJ 1--1 1-Jj 1J1J 1Jj1 1J-j 1JJ-"""
# Table 6.3.1.5-4.
_TWO_PORTS_2_LAYERS = "10/01 11/1- 1j/1J"
# Table 6.3.1.5-5.
_FOUR_PORTS_2_LAYERS = """
    1000/0100 1000/0010 1000/0001 0100/0010 0100/0001 0010/0001
    1010/010J 1010/010j 10J0/0101 10J0/010- 10-0/010J 10-0/010j 10j0/0101 10j0/010-
    1111/11-- 11jj/11JJ 1j1j/1j-J 1jj-/1jJ1 1-1-/1--1 1-jJ/1-Jj 1J1J/1J-j 1Jj1/1JJ-"""
# Table 6.3.1.5-6.
_FOUR_PORTS_3_LAYERS = """
    1000/0100/0010 1010/0100/0001 10-0/0100/0001
    1111/1-1-/11-- 11jj/1-jJ/11JJ 1-1-/1111/1--1 1-jJ/11jj/1-Jj"""
# Table 6.3.1.5-7.
_FOUR_PORTS_4_LAYERS = """
    1000/0100/0010/0001 1010/10-0/0101/010- 10j0/10J0/010j/010J
    1111/1-1-/11--/1--1 11jj/1-jJ/11JJ/1-Jj"""

_TABLES = {
    (1, 1): "1",
    (2, 1): _TWO_PORTS_1_LAYER,
    (2, 2): _TWO_PORTS_2_LAYERS,
    (4, 1): _FOUR_PORTS_1_LAYER_CP_OFDM,
    (4, 2): _FOUR_PORTS_2_LAYERS,
    (4, 3): _FOUR_PORTS_3_LAYERS,
    (4, 4): _FOUR_PORTS_4_LAYERS,
}
_TRANSFORM_TABLES = {
    (1, 1): "1",
    (2, 1): _TWO_PORTS_1_LAYER,
    (4, 1): _FOUR_PORTS_1_LAYER_TRANSFORM,
}


def n_tpmi(n_ports: int, n_layers: int, transform_precoding: bool = False) -> int:
    """Returns how many precoding matrices there are; TPMI counts from 0 to one less.

    Args:
        n_ports: antenna ports, 1, 2 or 4.
        n_layers: 1 to `n_ports`.
        transform_precoding: PUSCH with DFT-s-OFDM, which has one layer.

    Raises:
        InvalidInputError: there is no table for this.

    Spec: TS 38.211 tables 6.3.1.5-1 to -7
    """
    return len(_table(n_ports, n_layers, transform_precoding).split())


def codebook(
    n_ports: int, n_layers: int, tpmi: int, transform_precoding: bool = False
) -> npt.NDArray[np.complex64]:
    """Returns the precoding matrix W: complex64[port, layer], read-only.

    The total power, sum of |W|^2, is 1 where every port transmits, and less by the ports that are
    silent; columns are orthogonal and, but for three layers with TPMI 1 and 2, of equal power.

    Args:
        n_ports: antenna ports, 1, 2 or 4.
        n_layers: 1 to `n_ports`.
        tpmi: transmitted precoding matrix indicator, 0 to `n_tpmi` - 1.
        transform_precoding: PUSCH with DFT-s-OFDM, which has one layer.

    Raises:
        InvalidInputError: there is no table for this, or no such row in it.

    Spec: TS 38.211 tables 6.3.1.5-1 to -7
    """
    check_integer("tpmi", tpmi, 0, n_tpmi(n_ports, n_layers, transform_precoding) - 1)
    return _matrix(n_ports, n_layers, int(tpmi), bool(transform_precoding))


@lru_cache(maxsize=128)
def _matrix(
    n_ports: int, n_layers: int, tpmi: int, transform_precoding: bool
) -> npt.NDArray[np.complex64]:
    columns = _table(n_ports, n_layers, transform_precoding).split()[tpmi].split("/")
    w = np.array([[_ENTRY[entry] for entry in column] for column in columns]).T
    # The tables' factors: 1 / sqrt(ports) while no port serves two layers, else power 1 in all.
    scale = 1 / math.sqrt(max(int(np.count_nonzero(w)), n_ports))
    matrix = (scale * w).astype(np.complex64)
    matrix.setflags(write=False)
    return matrix


def _table(n_ports: int, n_layers: int, transform_precoding: bool) -> str:
    check_choice("n_ports", n_ports, (1, 2, 4))
    check_integer("n_layers", n_layers, 1, n_ports)
    if transform_precoding and n_layers > 1:
        raise InvalidInputError("n_layers", "must be 1 with transform precoding")
    return (_TRANSFORM_TABLES if transform_precoding else _TABLES)[n_ports, n_layers]
