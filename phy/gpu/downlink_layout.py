"""Who is sent to in a slot, as the kernels of the downlink are told: one record for each UE.

The records mirror `struct Receiver` of phy/kernels/downlink.cu; every field is four bytes wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from phy.gpu.encode_plan import SentTb, sent_tb
from phy.gpu.front_end_layout import CHUNK_BITS, CHUNK_WORDS
from phy.nr import dmrs
from phy.pdsch.config import PdschConfig
from phy.shared_channel.config import N_SYMBOLS

MAX_LAYERS = 4
_MAX_DMRS_ROWS = 8

RECEIVER = np.dtype(
    [
        ("n_layers", "<i4"),
        ("symbols_at", "<i4"),
        ("layer_stride", "<i4"),
        ("period", "<i4"),
        ("n_reserved", "<i4"),
        ("dmrs_row", "<i4", N_SYMBOLS),
        ("data_start", "<i4", N_SYMBOLS),
        ("n_dmrs_rows", "<i4"),
        ("dmrs_symbol", "<i4", _MAX_DMRS_ROWS),
        ("layer_comb", "<i4", MAX_LAYERS),
        ("layer_cover", "<i4", MAX_LAYERS),
        ("layer_sign", "<i4", MAX_LAYERS),
        ("is_pair", "<i4"),
        ("slot_number", "<i4"),
        ("pilot_n_id", "<i4"),
        ("pilot_n_scid", "<i4"),
        ("pilot_first_chunk", "<i4"),
        ("pilot_first_bit", "<i4"),
        ("pilot_at", "<i4"),
        ("pilot_stride", "<i4"),
        ("pilot_scale", "<f4"),
        ("scrambling_at", "<i4"),
        ("scrambling_c_init", "<i4"),
        ("n_coded_bits", "<i4"),
    ]
)
"""struct Receiver of phy/kernels/downlink.cu, where the fields are described."""


@dataclass(frozen=True)
class SendGrid:
    """The resource grid of a cell.

    Attributes:
        n_antennas: transmit antenna ports.
        n_prb: PRBs of the carrier.
    """

    n_antennas: int
    n_prb: int

    @property
    def n_samples(self) -> int:
        """Samples of a slot."""
        return self.n_antennas * N_SYMBOLS * 12 * self.n_prb


@dataclass(frozen=True, eq=False)
class DownlinkUe:
    """A UE's allocation, made once and used in many slots; two of them are never equal.

    Attributes:
        cell: index of its cell.
        config: the allocation; its `slot_number` does not matter.
    """

    cell: int
    config: PdschConfig

    @cached_property
    def tb(self) -> SentTb:
        """The transport block's tables."""
        return sent_tb(self.config.sch)

    @cached_property
    def n_scrambling_words(self) -> int:
        """Words of its scrambling sequence."""
        return -(-self.config.sch.n_coded_bits // CHUNK_BITS) * CHUNK_WORDS

    @cached_property
    def n_pilot_words(self) -> int:
        """Words of its packed pilots."""
        return int(self.record[0]["n_dmrs_rows"] * self.record[0]["pilot_stride"])

    @cached_property
    def prbs(self) -> npt.NDArray[np.int64]:
        """Its PRBs within the carrier: int64[n_prb], rising."""
        subcarriers = np.arange(self.config.n_subcarriers)[self.config.subcarriers]
        prbs: npt.NDArray[np.int64] = subcarriers[::12] // 12
        return prbs

    @cached_property
    def weights(self) -> npt.NDArray[np.complex64] | None:
        """Precoding weights, complex64[set, antenna, layer]; None: a layer on each antenna."""
        precoder = self.config.precoder
        return None if precoder is None else precoder.reshape(-1, *precoder.shape[-2:])

    @cached_property
    def set_of_prb(self) -> npt.NDArray[np.int64]:
        """Which set of weights each of its PRBs uses: int64[n_prb]."""
        if self.weights is None or len(self.weights) == 1:
            return np.zeros(self.config.n_prb, np.int64)
        counts = [count for _, count in self.config.prb_runs]
        return np.repeat(np.arange(len(counts)), counts)

    @cached_property
    def record(self) -> npt.NDArray[np.void]:
        """Its RECEIVER[1], but for its place and the slot."""
        config = self.config
        record = np.zeros(1, RECEIVER)
        ue = record[0]
        rows = config.dmrs_symbols
        ue["n_layers"] = config.n_layers
        ue["layer_stride"] = self.tb.n_symbols // config.n_layers
        ue["period"] = 2 if config.dmrs_type == 1 else 6
        of_group = 1 if config.dmrs_type == 1 else 2
        ue["n_reserved"] = of_group * config.n_cdm_groups_without_data
        ue["dmrs_row"] = -1
        ue["dmrs_row"][list(rows)] = np.arange(len(rows))
        counts = np.count_nonzero(config.data_mask, axis=1)
        ue["data_start"] = np.where(counts > 0, np.cumsum(counts) - counts, -1)
        ue["n_dmrs_rows"] = len(rows)
        ue["dmrs_symbol"][: len(rows)] = rows
        for layer, port in enumerate(config.ports):
            ue["layer_comb"][layer] = of_group * dmrs.cdm_group(port, config.dmrs_type)
            ue["layer_cover"][layer] = port % 2
            ue["layer_sign"][layer] = dmrs.time_cover(port, config.dmrs_type)[1]
        ue["is_pair"] = config.dmrs_length == 2
        ue["pilot_n_id"] = config.n_id if config.dmrs_n_id is None else config.dmrs_n_id
        ue["pilot_n_scid"] = config.dmrs_n_scid
        bits_of_prb = 2 * dmrs.pilots_per_prb(config.dmrs_type)
        first, last = config.allocated_prbs[0], config.allocated_prbs[-1]
        ue["pilot_first_chunk"], ue["pilot_first_bit"] = divmod(bits_of_prb * first, CHUNK_BITS)
        n_bits = int(ue["pilot_first_bit"]) + bits_of_prb * (last - first + 1)
        ue["pilot_stride"] = -(-n_bits // CHUNK_BITS) * CHUNK_WORDS
        ue["pilot_scale"] = dmrs.amplitude(config.n_cdm_groups_without_data) / np.sqrt(2)
        ue["scrambling_c_init"] = config.data_c_init
        ue["n_coded_bits"] = config.sch.n_coded_bits
        return record
