"""Demodulation reference signals of PUSCH and PDSCH: configuration types 1 and 2.

Ports are numbered from 0 (port p of the spec is 0 + p for PUSCH, 1000 + p for PDSCH).

Spec: TS 38.211 6.4.1.1 (PUSCH), 7.4.1.1 (PDSCH)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer
from phy.nr import scrambling
from phy.nr.dmrs_positions import MappingType, pdsch_symbol_positions, symbol_positions

__all__ = [
    "MappingType",
    "allowed_ports",
    "amplitude",
    "c_init",
    "cdm_group",
    "cover",
    "data_subcarriers",
    "n_groups",
    "pdsch_symbol_positions",
    "pilots_per_prb",
    "sequence",
    "subcarriers",
    "symbol_positions",
    "time_cover",
]

_PILOTS_PER_PRB = {1: 6, 2: 4}
_N_GROUPS = {1: 2, 2: 3}


def pilots_per_prb(configuration_type: int = 1) -> int:
    """Returns the pilots of one port in one PRB and symbol: 6 with type 1, 4 with type 2."""
    check_choice("dmrs_configuration_type", configuration_type, _PILOTS_PER_PRB)
    return _PILOTS_PER_PRB[configuration_type]


def n_groups(configuration_type: int = 1) -> int:
    """Returns the number of CDM groups: 2 with type 1, 3 with type 2."""
    check_choice("dmrs_configuration_type", configuration_type, _N_GROUPS)
    return _N_GROUPS[configuration_type]


def allowed_ports(
    configuration_type: int = 1, length: int = 1, n_cdm_groups_without_data: int = 2
) -> tuple[int, ...]:
    """Returns the ports whose CDM group carries no data, in rising order.

    Spec: TS 38.211 tables 6.4.1.1.3-1, -2 and -5
    """
    groups = n_groups(configuration_type)
    check_integer("dmrs_length", length, 1, 2)
    check_integer("n_cdm_groups_without_data", n_cdm_groups_without_data, 1, groups)
    ports = range(2 * groups * length)
    return tuple(p for p in ports if (p // 2) % groups < n_cdm_groups_without_data)


def cdm_group(port: int, configuration_type: int = 1) -> int:
    """Returns lambda, the CDM group of `port`. Spec: TS 38.211 tables 6.4.1.1.3-1 and -2"""
    _check_port(port, configuration_type)
    return (port // 2) % n_groups(configuration_type)


def c_init(slot_number: int, symbol: int, n_id: int, n_scid: int) -> int:
    """Returns c_init of one symbol's sequence; arguments as `sequence`.

    Spec: TS 38.211 6.4.1.1.1.1 and 7.4.1.1.1
    """
    of_symbol = (14 * slot_number + symbol + 1) * (2 * n_id + 1)
    return ((of_symbol << 17) + 2 * n_id + n_scid) % (1 << 31)


def sequence(
    slot_number: int,
    symbol: int,
    n_id: int,
    n_scid: int,
    start_prb: int,
    n_prb: int,
    configuration_type: int = 1,
) -> npt.NDArray[np.complex64]:
    """Returns r(n) of the allocated PRBs: complex64[pilots per PRB * n_prb], magnitude 1.

    Args:
        slot_number: slot within the frame.
        symbol: symbol within the slot.
        n_id: N_ID^{n_SCID}, 0 to 65535.
        n_scid: 0 or 1.
        start_prb: first PRB, counted from common resource block 0.
        n_prb: PRBs.
        configuration_type: 1 (6 pilots a PRB) or 2 (4 pilots).

    Spec: TS 38.211 6.4.1.1.1.1 and 7.4.1.1.1
    """
    density = pilots_per_prb(configuration_type)
    n = density * (start_prb + n_prb)
    c = scrambling.sequence(c_init(slot_number, symbol, n_id, n_scid), 2 * n).astype(np.float32)
    r = ((1 - 2 * c[0::2]) + 1j * (1 - 2 * c[1::2])) / np.float32(math.sqrt(2))
    return r[density * start_prb :].astype(np.complex64)


def subcarriers(n_prb: int, port: int, configuration_type: int = 1) -> npt.NDArray[np.intp]:
    """Returns the subcarriers of the allocation that carry DM-RS of `port`: [pilots per PRB n_prb].

    Type 1: every second subcarrier; type 2: two neighbours in every six.

    Spec: TS 38.211 6.4.1.1.3, tables 6.4.1.1.3-1 and -2
    """
    group = cdm_group(port, configuration_type)
    pilot = np.arange(pilots_per_prb(configuration_type) * n_prb)
    if configuration_type == 1:
        return 2 * pilot + group
    return 6 * (pilot // 2) + pilot % 2 + 2 * group


def cover(n_pilots: int, port: int, configuration_type: int = 1) -> npt.NDArray[np.float32]:
    """Returns w_f of `port` for each pilot: float32[n_pilots], +1 or -1.

    Spec: TS 38.211 tables 6.4.1.1.3-1 and -2
    """
    _check_port(port, configuration_type)
    signs = np.ones(n_pilots, dtype=np.float32)
    if port % 2 == 1:
        signs[1::2] = -1.0
    return signs


def time_cover(port: int, configuration_type: int = 1) -> tuple[int, int]:
    """Returns w_t of `port` on the first and second symbol of double-symbol DM-RS.

    Spec: TS 38.211 tables 6.4.1.1.3-1 and -2
    """
    _check_port(port, configuration_type)
    return (1, -1) if port >= 2 * n_groups(configuration_type) else (1, 1)


def data_subcarriers(
    n_prb: int, n_cdm_groups_without_data: int, configuration_type: int = 1
) -> npt.NDArray[np.bool_]:
    """Returns which subcarriers of a DM-RS symbol are free for data: bool[12 n_prb]."""
    subcarrier = np.arange(12 * n_prb)
    group = subcarrier % 2 if configuration_type == 1 else (subcarrier % 6) // 2
    free: npt.NDArray[np.bool_] = group >= n_cdm_groups_without_data
    return free


def amplitude(n_cdm_groups_without_data: int) -> float:
    """Returns beta_DMRS, the amplitude of DM-RS relative to data.

    Spec: TS 38.214 tables 4.1-1 and 6.2.2-1: 0, -3 and -4.77 dB of data relative to DM-RS for 1, 2
    and 3 groups
    """
    check_choice("n_cdm_groups_without_data", n_cdm_groups_without_data, (1, 2, 3))
    ratio_db = {1: 0.0, 2: -3.0, 3: -4.77}[n_cdm_groups_without_data]
    return float(10 ** (-ratio_db / 20))


def _check_port(port: int, configuration_type: int) -> None:
    last = 4 * n_groups(configuration_type) - 1
    if isinstance(port, bool) or not 0 <= port <= last:
        raise InvalidInputError("port", f"must lie in [0, {last}], got {port}")
