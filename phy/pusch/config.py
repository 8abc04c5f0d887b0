"""What one PUSCH transmission is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer
from phy.nr import low_papr, mcs, precoding, transform_precoding
from phy.shared_channel.config import SharedChannelConfig

# mcs-TableTransformPrecoder to (table of TS 38.214 6.1.4.1 or 5.1.3.1, its own table?).
_TRANSFORM_TABLES = {1: (1, True), 2: (2, False), 3: (2, True)}


@dataclass(frozen=True)
class PuschConfig(SharedChannelConfig):
    """One PUSCH allocation, without frequency hopping.

    Attributes:
        n_ports: antenna ports of codebook transmission, 2 or 4; None: non-codebook, every layer on
            a port of its own.
        tpmi: transmitted precoding matrix indicator of codebook transmission.
        transform_precoding: DFT-s-OFDM; one layer, DM-RS type 1 of low PAPR, n_prb with no prime
            factor above 5. `mcs_table` 1, 2, 3 then mean TS 38.214 tables 6.1.4.1-1, 5.1.3.1-2
            and 6.1.4.1-2, and `dmrs_n_id` (without it `n_id`) is n_ID^RS, 0 to 1007.
        pi2_bpsk: with transform precoding, pi/2-BPSK is enabled for the lowest MCS indices.
        group_hopping: DM-RS sequence group hopping (transform precoding only).
        sequence_hopping: DM-RS sequence hopping (transform precoding only).

    Raises:
        InvalidInputError: a field is out of range, or fields contradict each other.

    Spec: TS 38.211 6.3.1, 6.4.1.1; TS 38.214 6.1.4, 6.2.2
    """

    n_ports: int | None = None
    tpmi: int = 0
    transform_precoding: bool = False
    pi2_bpsk: bool = False
    group_hopping: bool = False
    sequence_hopping: bool = False

    def __post_init__(self) -> None:
        if self.transform_precoding:
            self._check_transform_precoding()
        else:
            for field in ("pi2_bpsk", "group_hopping", "sequence_hopping"):
                if getattr(self, field):
                    raise InvalidInputError(field, "needs transform_precoding")
        if self.n_ports is None and self.tpmi != 0:
            raise InvalidInputError("tpmi", "needs n_ports")
        if self.n_ports is not None:
            check_choice("n_ports", self.n_ports, (2, 4))
            check_integer("n_layers", self.n_layers, 1, self.n_ports)
        super().__post_init__()
        _ = self.precoder

    def _check_transform_precoding(self) -> None:
        if self.n_layers != 1:
            raise InvalidInputError("n_layers", "is 1 with transform precoding")
        if self.dmrs_type != 1:
            raise InvalidInputError("dmrs_type", "is 1 with transform precoding")
        if self.n_cdm_groups_without_data != 2:
            raise InvalidInputError("n_cdm_groups_without_data", "is 2 with transform precoding")
        if self.prbs is not None:
            raise InvalidInputError("prbs", "must be contiguous with transform precoding")
        check_integer("n_prb", self.n_prb, 1, 273)
        if not transform_precoding.is_allowed(self.n_prb):
            raise InvalidInputError(
                "n_prb", f"must be 2^a 3^b 5^c with transform precoding, got {self.n_prb}"
            )
        if self.dmrs_n_id is None:
            check_integer("n_id", self.n_id, 0, 1007)
        else:
            check_integer("dmrs_n_id", self.dmrs_n_id, 0, 1007)
        if self.group_hopping and self.sequence_hopping:
            raise InvalidInputError("sequence_hopping", "excludes group_hopping")

    @cached_property
    def mcs(self) -> mcs.Mcs:
        """Modulation order and target code rate."""
        if not self.transform_precoding:
            return mcs.lookup(self.mcs_table, self.mcs_index)
        check_choice("mcs_table", self.mcs_table, _TRANSFORM_TABLES)
        table, own = _TRANSFORM_TABLES[self.mcs_table]
        return mcs.lookup(table, self.mcs_index, own, own and self.pi2_bpsk)

    @property
    def pi2_modulation(self) -> bool:
        """Data is pi/2-BPSK."""
        return self.mcs.modulation_order == 1

    @cached_property
    def precoder(self) -> npt.NDArray[np.complex64] | None:
        """W: complex64[port, layer]; None where every layer has a port of its own.

        Spec: TS 38.211 6.3.1.5
        """
        if self.n_ports is None:
            return None
        return precoding.codebook(self.n_ports, self.n_layers, self.tpmi, self.transform_precoding)

    def _pilot_row(self, slot_number: int, symbol: int) -> npt.NDArray[np.complex64]:
        if not self.transform_precoding:
            return super()._pilot_row(slot_number, symbol)
        n_id = self.n_id if self.dmrs_n_id is None else self.dmrs_n_id
        length = 6 * self.n_prb
        # Both symbols of double-symbol DM-RS carry the first one's sequence.
        row = self.dmrs_symbols.index(symbol)
        symbol = self.dmrs_symbols[row - row % self.dmrs_length]
        group, number = low_papr.pusch_group_and_number(
            n_id, slot_number, symbol, self.group_hopping, self.sequence_hopping, length
        )
        return low_papr.sequence(group, number, length)
