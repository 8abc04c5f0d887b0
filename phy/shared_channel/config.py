"""What one transmission on a shared channel is: allocation, MCS, DM-RS, layers, scrambling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer, check_integers
from phy.nr import dmrs, mcs, scrambling, tbs
from phy.nr.dmrs import MappingType
from phy.nr.sch import SchConfig

N_SYMBOLS = 14
"""OFDM symbols of a slot with normal cyclic prefix."""

MAX_PRB = 275


@dataclass(frozen=True)
class SharedChannelConfig:
    """The fields that PUSCH and PDSCH share.

    Grids are complex64[antenna or port, 14, 12 * carrier PRBs].

    Attributes:
        n_prb: allocated PRBs, 1 to 273.
        mcs_table: 1 (64QAM), 2 (256QAM) or 3 (low spectral efficiency).
        mcs_index: I_MCS.
        scs_khz: subcarrier spacing, 15, 30, 60 or 120.
        n_layers: layers, 1 to 4.
        n_rx: receive antennas, 1 to 16.
        rnti: the UE's RNTI.
        n_id: data scrambling identity, 0 to 1023 (the cell identity by default).
        slot_number: slot within the frame.
        start_prb: first PRB, counted from common resource block 0; ignored if `prbs` is given.
        start_symbol: first symbol of the allocation.
        n_symbols: symbols of the allocation.
        mapping_type: "A" or "B".
        dmrs_type_a_position: 2 or 3.
        dmrs_additional_positions: 0 to 3; 0 or 1 with double-symbol DM-RS.
        dmrs_n_id: DM-RS scrambling identity, 0 to 65535; None: `n_id`.
        dmrs_n_scid: 0 or 1.
        n_cdm_groups_without_data: 1 or 2, with DM-RS type 2 also 3; with 2 or 3 DM-RS is sent 3 or
            4.77 dB stronger than data.
        rv: redundancy version.
        limited_buffer_bits: N_ref of a limited circular buffer, or None.
        dmrs_type: DM-RS configuration type, 1 or 2.
        dmrs_length: 1 for single-symbol, 2 for double-symbol DM-RS.
        dmrs_ports: DM-RS port of each layer, from 0 (1000 of PDSCH is 0); None: 0 to n_layers - 1.
        prbs: the allocated PRBs, rising, counted from common resource block 0, where they are not
            contiguous; None: `n_prb` from `start_prb` on.
        carrier_start_prb: common resource block of the grid's first subcarrier; None: the first
            allocated PRB.
        carrier_n_prb: PRBs of the grid; None: up to the last allocated PRB.
        n_overhead_re: xOverhead, resource elements a PRB that the TBS leaves out: 0, 6, 12 or 18.

    Raises:
        InvalidInputError: a field is out of range, or fields contradict each other.
    """

    n_prb: int
    mcs_table: int = 1
    mcs_index: int = 16
    scs_khz: int = 30
    n_layers: int = 1
    n_rx: int = 2
    rnti: int = 1
    n_id: int = 0
    slot_number: int = 0
    start_prb: int = 0
    start_symbol: int = 0
    n_symbols: int = 14
    mapping_type: MappingType = "A"
    dmrs_type_a_position: int = 2
    dmrs_additional_positions: int = 1
    dmrs_n_id: int | None = None
    dmrs_n_scid: int = 0
    n_cdm_groups_without_data: int = 2
    rv: int = 0
    limited_buffer_bits: int | None = None
    dmrs_type: int = 1
    dmrs_length: int = 1
    dmrs_ports: tuple[int, ...] | None = None
    prbs: tuple[int, ...] | None = None
    carrier_start_prb: int | None = None
    carrier_n_prb: int | None = None
    n_overhead_re: int = 0

    # The uplink's table; the downlink has one of its own.
    _symbol_positions = staticmethod(dmrs.symbol_positions)

    def __post_init__(self) -> None:
        for field in ("prbs", "dmrs_ports"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, check_integers(field, value))
        check_integer("n_prb", self.n_prb, 1, 273)
        check_choice("scs_khz", self.scs_khz, (15, 30, 60, 120))
        check_integer("n_layers", self.n_layers, 1, 4)
        check_integer("n_rx", self.n_rx, 1, 16)
        check_integer("rnti", self.rnti, 0, 65535)
        check_integer("n_id", self.n_id, 0, 1023)
        check_integer("slot_number", self.slot_number, 0, self.slots_per_frame - 1)
        check_choice("n_overhead_re", self.n_overhead_re, (0, 6, 12, 18))
        self._check_allocation()
        self._check_dmrs()
        # The derived values check the fields they are made of.
        _ = self.mcs, self.dmrs_symbols
        if max(self.dmrs_symbols) >= self.start_symbol + self.n_symbols:
            raise InvalidInputError("n_symbols", "leaves out a DM-RS symbol")
        self._check_room()
        _ = self.tb_size_bits, self.sch

    def _check_allocation(self) -> None:
        check_integer("start_prb", self.start_prb, 0, 2199)
        if self.prbs is not None:
            rising = all(b > a for a, b in zip(self.prbs, self.prbs[1:], strict=False))
            if len(self.prbs) != self.n_prb or not rising:
                raise InvalidInputError("prbs", f"must be {self.n_prb} rising PRB numbers")
            check_integer("prbs", self.prbs[0], 0, 2199)
        first, last = self.allocated_prbs[0], self.allocated_prbs[-1]
        if self.carrier_start_prb is not None:
            check_integer("carrier_start_prb", self.carrier_start_prb, 0, first)
        if self.carrier_n_prb is not None:
            check_integer(
                "carrier_n_prb", self.carrier_n_prb, last - self.grid_start_prb + 1, MAX_PRB
            )
        elif self.grid_n_prb > MAX_PRB:
            raise InvalidInputError("prbs", f"must lie within {MAX_PRB} PRBs of each other")

    def _check_dmrs(self) -> None:
        check_integer("dmrs_n_scid", self.dmrs_n_scid, 0, 1)
        if self.dmrs_n_id is not None:
            check_integer("dmrs_n_id", self.dmrs_n_id, 0, 65535)
        check_choice("dmrs_type", self.dmrs_type, (1, 2))
        check_integer("dmrs_length", self.dmrs_length, 1, 2)
        groups = tuple(range(1, dmrs.n_groups(self.dmrs_type) + 1))
        check_choice("n_cdm_groups_without_data", self.n_cdm_groups_without_data, groups)
        allowed = dmrs.allowed_ports(
            self.dmrs_type, self.dmrs_length, self.n_cdm_groups_without_data
        )
        for port in self.ports:
            check_choice("dmrs_ports", port, allowed)
        if len(set(self.ports)) != self.n_layers:
            raise InvalidInputError("dmrs_ports", f"must be {self.n_layers} different ports")

    def _check_room(self) -> None:
        room = 12 * self.n_symbols - self.n_dmrs_per_prb
        if room < 1:
            raise InvalidInputError("n_symbols", "leaves no resource element beside DM-RS for data")
        if room <= self.n_overhead_re:
            raise InvalidInputError("n_overhead_re", f"must be less than the {room} of a PRB")

    @property
    def slots_per_frame(self) -> int:
        """Slots in 10 ms."""
        return 10 * self.scs_khz // 15

    @cached_property
    def allocated_prbs(self) -> tuple[int, ...]:
        """The allocated PRBs, counted from common resource block 0."""
        return self.prbs or tuple(range(self.start_prb, self.start_prb + self.n_prb))

    @property
    def grid_start_prb(self) -> int:
        """Common resource block of the grid's first subcarrier."""
        first = self.carrier_start_prb
        return self.allocated_prbs[0] if first is None else first

    @property
    def grid_n_prb(self) -> int:
        """PRBs of the grid."""
        return self.carrier_n_prb or self.allocated_prbs[-1] - self.grid_start_prb + 1

    @property
    def n_subcarriers(self) -> int:
        """Subcarriers of the grid."""
        return 12 * self.grid_n_prb

    @cached_property
    def subcarriers(self) -> slice | npt.NDArray[np.intp]:
        """The allocated subcarriers of the grid: a slice where they are contiguous."""
        first = 12 * (self.allocated_prbs[0] - self.grid_start_prb)
        if self.allocated_prbs[-1] - self.allocated_prbs[0] == self.n_prb - 1:
            return slice(first, first + 12 * self.n_prb)
        starts = 12 * (np.asarray(self.allocated_prbs) - self.grid_start_prb)
        return (starts[:, None] + np.arange(12)).reshape(-1)

    @property
    def bundle_prbs(self) -> int | None:
        """PRBs over which the channel is continuous, counted from common resource block 0; None
        where it is so over all neighbours."""
        return None

    @cached_property
    def prb_runs(self) -> tuple[tuple[int, int], ...]:
        """(first, count) of each run of neighbouring PRBs with a continuous channel, as positions
        in `allocated_prbs`."""
        prbs = np.asarray(self.allocated_prbs)
        breaks = np.diff(prbs) != 1
        if self.bundle_prbs is not None:
            breaks |= np.diff(prbs // self.bundle_prbs) != 0
        starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        counts = np.diff(starts, append=prbs.size)
        return tuple((int(a), int(n)) for a, n in zip(starts, counts, strict=True))

    @cached_property
    def mcs(self) -> mcs.Mcs:
        """Modulation order and target code rate."""
        return mcs.lookup(self.mcs_table, self.mcs_index)

    @property
    def ports(self) -> tuple[int, ...]:
        """DM-RS port of each layer."""
        return tuple(range(self.n_layers)) if self.dmrs_ports is None else self.dmrs_ports

    @cached_property
    def dmrs_symbols(self) -> tuple[int, ...]:
        """Symbols of the slot that carry DM-RS; with double-symbol DM-RS both of each pair."""
        return self._symbol_positions(
            self.mapping_type,
            self.start_symbol,
            self.n_symbols,
            self.dmrs_additional_positions,
            self.dmrs_type_a_position,
            self.dmrs_length,
        )

    @property
    def n_dmrs_per_prb(self) -> int:
        """Resource elements of a PRB that DM-RS keeps free of data."""
        density = dmrs.pilots_per_prb(self.dmrs_type)
        return density * self.n_cdm_groups_without_data * len(self.dmrs_symbols)

    @property
    def n_data_re(self) -> int:
        """Resource elements that carry data, on each layer."""
        return self.n_prb * (12 * self.n_symbols - self.n_dmrs_per_prb)

    @cached_property
    def tb_size_bits(self) -> int:
        """Transport block size. Spec: TS 38.214 5.1.3.2, 6.1.4.2"""
        mcs = self.mcs
        return tbs.size(
            self.n_prb,
            self.n_symbols,
            self.n_dmrs_per_prb + self.n_overhead_re,
            mcs.modulation_order,
            mcs.code_rate,
            self.n_layers,
        )

    @cached_property
    def sch(self) -> SchConfig:
        """How the transport block is coded."""
        return SchConfig(
            tb_size_bits=self.tb_size_bits,
            code_rate=self.mcs.code_rate,
            modulation_order=self.mcs.modulation_order,
            n_layers=self.n_layers,
            n_coded_bits=self.n_data_re * self.mcs.modulation_order * self.n_layers,
            rv=self.rv,
            limited_buffer_bits=self.limited_buffer_bits,
        )

    @cached_property
    def data_mask(self) -> npt.NDArray[np.bool_]:
        """Which resource elements of the allocation carry data: bool[14, 12 * n_prb]."""
        mask = np.zeros((N_SYMBOLS, 12 * self.n_prb), dtype=np.bool_)
        mask[self.start_symbol : self.start_symbol + self.n_symbols] = True
        mask[list(self.dmrs_symbols)] = dmrs.data_subcarriers(
            self.n_prb, self.n_cdm_groups_without_data, self.dmrs_type
        )
        mask.setflags(write=False)
        return mask

    @property
    def pi2_modulation(self) -> bool:
        """Data is pi/2-BPSK."""
        return False

    @property
    def data_c_init(self) -> int:
        """c_init of the data's scrambling. Spec: TS 38.211 6.3.1.1"""
        return scrambling.pusch_c_init(self.rnti, self.n_id)

    @cached_property
    def scrambling_sequence(self) -> npt.NDArray[np.uint8]:
        """c(i) of the coded bits: uint8[G]. Spec: TS 38.211 6.3.1.1, 7.3.1.1"""
        return scrambling.sequence(self.data_c_init, self.sch.n_coded_bits)

    def pilots(self, slot_number: int) -> npt.NDArray[np.complex64]:
        """Returns beta r(n), the DM-RS before its covers: complex64[dmrs symbol, pilot].

        All CDM groups and ports share it; `phy.nr.dmrs` gives positions and covers.

        Spec: TS 38.211 6.4.1.1.1.1, 6.4.1.1.3, 7.4.1.1.1
        """
        beta = np.float32(dmrs.amplitude(self.n_cdm_groups_without_data))
        return beta * np.stack([self._pilot_row(slot_number, row) for row in self.dmrs_symbols])

    def _pilot_row(self, slot_number: int, symbol: int) -> npt.NDArray[np.complex64]:
        first, last = self.allocated_prbs[0], self.allocated_prbs[-1]
        n_id = self.n_id if self.dmrs_n_id is None else self.dmrs_n_id
        span = dmrs.sequence(
            slot_number, symbol, n_id, self.dmrs_n_scid, first, last - first + 1, self.dmrs_type
        )
        if self.prbs is None:
            return span
        by_prb = span.reshape(last - first + 1, -1)
        used: npt.NDArray[np.complex64] = by_prb[np.asarray(self.prbs) - first].reshape(-1)
        return used
