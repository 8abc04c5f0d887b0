"""What one PUSCH transmission is: allocation, MCS, DM-RS, scrambling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer
from phy.nr import dmrs, mcs, scrambling, tbs
from phy.nr.dmrs import MappingType
from phy.nr.sch import SchConfig

N_SYMBOLS = 14
"""OFDM symbols of a slot with normal cyclic prefix."""


@dataclass(frozen=True)
class PuschConfig:
    """One PUSCH allocation without transform precoding or frequency hopping, one layer.

    The grid covers the allocated PRBs only: complex64[antenna, 14, 12 * n_prb].

    Attributes:
        n_prb: allocated PRBs, contiguous, 1 to 273.
        mcs_table: 1 (64QAM), 2 (256QAM) or 3 (low spectral efficiency).
        mcs_index: I_MCS.
        scs_khz: subcarrier spacing, 15, 30, 60 or 120.
        n_layers: layers; 1.
        n_rx: receive antennas, 1 to 16.
        rnti: the UE's RNTI.
        n_id: data scrambling identity, 0 to 1023 (the cell identity by default).
        slot_number: slot within the frame.
        start_prb: first PRB, counted from common resource block 0.
        start_symbol: first symbol of the allocation.
        n_symbols: symbols of the allocation.
        mapping_type: "A" or "B".
        dmrs_type_a_position: 2 or 3.
        dmrs_additional_positions: 0 to 3.
        dmrs_n_id: DM-RS scrambling identity, 0 to 65535; None: `n_id`.
        dmrs_n_scid: 0 or 1.
        n_cdm_groups_without_data: 1 or 2; with 2 the DM-RS symbols carry no data and DM-RS is
            sent 3 dB stronger.
        rv: redundancy version.
        limited_buffer_bits: N_ref of a limited circular buffer, or None.

    Raises:
        InvalidInputError: a field is out of range, or fields contradict each other.

    Spec: TS 38.211 6.3.1, 6.4.1.1; TS 38.214 6.1.4, 6.2.2
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

    def __post_init__(self) -> None:
        check_integer("n_prb", self.n_prb, 1, 273)
        check_choice("scs_khz", self.scs_khz, (15, 30, 60, 120))
        check_integer("n_layers", self.n_layers, 1, 1)
        check_integer("n_rx", self.n_rx, 1, 16)
        check_integer("rnti", self.rnti, 0, 65535)
        check_integer("n_id", self.n_id, 0, 1023)
        check_integer("slot_number", self.slot_number, 0, self.slots_per_frame - 1)
        check_integer("start_prb", self.start_prb, 0, 2199)
        check_integer("dmrs_n_scid", self.dmrs_n_scid, 0, 1)
        if self.dmrs_n_id is not None:
            check_integer("dmrs_n_id", self.dmrs_n_id, 0, 65535)
        check_choice("n_cdm_groups_without_data", self.n_cdm_groups_without_data, (1, 2))
        # The derived values check the fields they are made of.
        _ = self.mcs, self.dmrs_symbols, self.tb_size_bits
        if max(self.dmrs_symbols) >= self.start_symbol + self.n_symbols:
            raise InvalidInputError("n_symbols", "leaves out a DM-RS symbol")
        _ = self.sch

    @property
    def slots_per_frame(self) -> int:
        """Slots in 10 ms."""
        return 10 * self.scs_khz // 15

    @property
    def n_subcarriers(self) -> int:
        """Subcarriers of the grid."""
        return 12 * self.n_prb

    @cached_property
    def mcs(self) -> mcs.Mcs:
        """Modulation order and target code rate."""
        return mcs.lookup(self.mcs_table, self.mcs_index)

    @cached_property
    def dmrs_symbols(self) -> tuple[int, ...]:
        """Symbols of the slot that carry DM-RS."""
        return dmrs.symbol_positions(
            self.mapping_type,
            self.start_symbol,
            self.n_symbols,
            self.dmrs_additional_positions,
            self.dmrs_type_a_position,
        )

    @property
    def n_dmrs_per_prb(self) -> int:
        """Resource elements of a PRB that DM-RS keeps free of data."""
        return dmrs.PILOTS_PER_PRB * self.n_cdm_groups_without_data * len(self.dmrs_symbols)

    @property
    def n_data_re(self) -> int:
        """Resource elements that carry data."""
        return self.n_prb * (12 * self.n_symbols - self.n_dmrs_per_prb)

    @cached_property
    def tb_size_bits(self) -> int:
        """Transport block size. Spec: TS 38.214 6.1.4.2"""
        mcs = self.mcs
        return tbs.size(
            self.n_prb,
            self.n_symbols,
            self.n_dmrs_per_prb,
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
        """Which resource elements carry data: bool[14, 12 * n_prb]."""
        mask = np.zeros((N_SYMBOLS, self.n_subcarriers), dtype=np.bool_)
        mask[self.start_symbol : self.start_symbol + self.n_symbols] = True
        for symbol in self.dmrs_symbols:
            mask[symbol] = np.arange(self.n_subcarriers) % 2 >= self.n_cdm_groups_without_data
        mask.setflags(write=False)
        return mask

    @cached_property
    def scrambling_sequence(self) -> npt.NDArray[np.uint8]:
        """c(i) of the coded bits: uint8[G]. Spec: TS 38.211 6.3.1.1"""
        c_init = scrambling.pusch_c_init(self.rnti, self.n_id)
        return scrambling.sequence(c_init, self.sch.n_coded_bits)

    def pilots(self, slot_number: int) -> npt.NDArray[np.complex64]:
        """Returns the DM-RS as transmitted on port 0: complex64[dmrs symbol, 6 n_prb].

        Spec: TS 38.211 6.4.1.1.3
        """
        n_id = self.n_id if self.dmrs_n_id is None else self.dmrs_n_id
        beta = np.float32(dmrs.amplitude(self.n_cdm_groups_without_data))
        rows = [
            dmrs.sequence(slot_number, symbol, n_id, self.dmrs_n_scid, self.start_prb, self.n_prb)
            for symbol in self.dmrs_symbols
        ]
        return beta * np.stack(rows)
