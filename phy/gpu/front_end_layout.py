"""How the front end's kernels are told what to do: one record for each UE of a slot.

The records mirror `struct Ue` and `struct UeResult` of phy/kernels/front_end.cuh; every field is
four bytes wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.nr import dmrs
from phy.pusch.config import PuschConfig
from phy.receiver.pilots import PilotReader
from phy.shared_channel.config import N_SYMBOLS

CHUNK_BITS = 512
"""Pseudo-random bits that are generated together."""

CHUNK_WORDS = CHUNK_BITS // 32

MAX_POSITIONS = 4
MAX_CODES = 4
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""DM-RS positions that the products of a result belong to."""

UE_DESCRIPTOR = np.dtype(
    [
        ("grid_offset", "<i4"),  # samples before the cell's first
        ("grid_width", "<i4"),  # subcarriers of the cell's grid
        ("n_rx", "<i4"),
        ("first_subcarrier", "<i4"),  # of the allocation, in the grid
        ("n_subcarriers", "<i4"),  # of the allocation; 0: no UE in this record
        ("n_layers", "<i4"),
        ("n_positions", "<i4"),  # DM-RS positions
        ("dmrs_length", "<i4"),  # symbols of a position
        ("dmrs_symbol", "<i4", MAX_POSITIONS),  # first symbol of each position
        ("n_codes", "<i4"),  # pairs of CDM group and cover in time that the UE's ports use
        ("code_comb", "<i4", MAX_CODES),  # first subcarrier of the code's pilots, 0 or 1
        ("code_sign", "<i4", MAX_CODES),  # cover of a position's second symbol
        ("code_layer", "<i4", (MAX_CODES, 2)),  # layer without and with alternating cover, or -1
        ("code_filter", "<i4", MAX_CODES),  # filter set
        ("slot_number", "<i4"),  # within the frame
        ("pilot_n_id", "<i4"),
        ("pilot_n_scid", "<i4"),
        ("pilot_first_chunk", "<i4"),  # chunks of the DM-RS sequence before what is generated
        ("pilot_first_bit", "<i4"),  # of the first pilot, within that
        ("pilot_offset", "<i4"),  # words before its pilots, a multiple of 16
        ("pilot_stride", "<i4"),  # words of a DM-RS symbol, a multiple of 16
        ("pilot_scale", "<f4"),  # 1 / (sqrt(2) beta dmrs_length)
        ("n_groups_without_data", "<i4"),
        ("n_data_symbols", "<i4"),
        ("data_symbol", "<i4", N_SYMBOLS),  # symbols with data, rising
        ("data_start", "<i4", N_SYMBOLS),  # a layer's data resource elements before each of them
        ("data_step", "<i4", N_SYMBOLS),  # 1; 2: only odd subcarriers carry data
        ("modulation_order", "<i4"),
        ("llr_offset", "<i4"),  # bytes before its LLRs, a multiple of 16
        ("llr_scale", "<f4"),
        ("scrambling_offset", "<i4"),  # words before its scrambling sequence, a multiple of 16
        ("scrambling_c_init", "<i4"),
        ("n_coded_bits", "<i4"),
        ("noise_var", "<f4"),  # of the noise on a resource element; negative: measured
        ("estimate_gain", "<f4"),  # that noise relative to an estimate's
        (
            "residual_part",
            "<f4",
            MAX_CODES,
        ),  # residual's variance over the estimates' noise
        ("channel_offset", "<i4"),  # values before its channel estimates
        ("is_irc", "<i4"),  # whiten noise and interference
        ("time_weights", "<f4", (N_SYMBOLS, MAX_POSITIONS, 2)),  # real and imaginary parts
    ]
)

UE_RESULT = np.dtype(
    [
        ("position_power", "<f4", MAX_POSITIONS),  # mean |h|^2 at each DM-RS position
        ("product", "<f4", (len(PAIRS), 2)),  # mean conj(h_d) h_e of each pair of positions
        ("measured_noise_var", "<f4"),  # from the DM-RS residual
        ("noise_var", "<f4"),  # what the equaliser took
        ("symbol_noise_var", "<f4"),  # mean after the equaliser
        ("capacity", "<f4"),  # mean log2(1 + SINR) after the equaliser
        ("is_bad", "<i4"),  # a sample or a result was not finite
    ]
)


@dataclass(frozen=True)
class UePlacement:
    """Where a UE's data lies in the front end's buffers.

    Attributes:
        grid: samples before its cell's grid [rx, 14, subcarrier].
        pilots: words before its packed pilots, a multiple of 16.
        channel: values before its channel estimates, a multiple of 4.
        llr: bytes before its LLRs, a multiple of 16.
        scrambling: words before its packed scrambling sequence, a multiple of 16.
    """

    grid: int = 0
    pilots: int = 0
    channel: int = 0
    llr: int = 0
    scrambling: int = 0


@dataclass(frozen=True)
class UeTuning:
    """What earlier slots taught about a UE.

    Attributes:
        filter_sets: row in the table of taps for each of the UE's codes, in `codes`' order.
        residual_parts: variance of the residual on the estimates of each code, relative to their
            noise.
        error_part: variance of the noise left in the channel, relative to the estimates' noise.
        time_weights: complex64[14, position].
        noise_var: variance of the noise on a resource element; None: measured in the slot.
        is_irc: whiten noise and interference.
    """

    filter_sets: tuple[int, ...]
    residual_parts: tuple[float, ...]
    error_part: float
    time_weights: npt.NDArray[np.complex64]
    noise_var: float | None = None
    is_irc: bool = False


def check_supported(config: PuschConfig) -> None:
    """Raises InvalidInputError for what the kernels do not do: transform precoding, DM-RS type 2,
    PRBs that are not contiguous."""
    if config.transform_precoding:
        raise InvalidInputError("transform_precoding", "is not received on the GPU")
    if config.dmrs_type != 1:
        raise InvalidInputError("dmrs_type", "must be 1 on the GPU")
    if not isinstance(config.subcarriers, slice):
        raise InvalidInputError("prbs", "must be contiguous on the GPU")


def codes(config: PuschConfig) -> tuple[tuple[int, int], ...]:
    """(CDM group, sign of the second symbol) that the UE's ports use; layers that agree in both
    differ in their cover in frequency."""
    return tuple(sorted({code_of(port) for port in config.ports}))


def code_of(port: int) -> tuple[int, int]:
    """The code of one DM-RS port; see `codes`."""
    return dmrs.cdm_group(port), dmrs.time_cover(port)[1]


def describe(config: PuschConfig, placement: UePlacement, tuning: UeTuning) -> npt.NDArray[np.void]:
    """Returns the UE's record: UE_DESCRIPTOR[1].

    Raises:
        InvalidInputError: the kernels do not support the configuration.
    """
    check_supported(config)
    record = np.zeros(1, UE_DESCRIPTOR)
    ue = record[0]
    subcarriers = config.subcarriers
    assert isinstance(subcarriers, slice)
    ue["grid_offset"], ue["grid_width"] = placement.grid, config.n_subcarriers
    ue["n_rx"], ue["n_layers"] = config.n_rx, config.n_layers
    ue["first_subcarrier"], ue["n_subcarriers"] = subcarriers.start, 12 * config.n_prb
    ue["channel_offset"], ue["is_irc"] = placement.channel, tuning.is_irc
    _describe_pilots(ue, config, placement, tuning)
    _describe_data(ue, config, placement)
    ue["noise_var"] = -1.0 if tuning.noise_var is None else tuning.noise_var
    ue["estimate_gain"] = 1 / PilotReader([config]).noise_factor
    weights = tuning.time_weights
    ue["time_weights"][:, : weights.shape[1], 0] = weights.real
    ue["time_weights"][:, : weights.shape[1], 1] = weights.imag
    return record


def _describe_pilots(
    ue: np.void, config: PuschConfig, placement: UePlacement, tuning: UeTuning
) -> None:
    length = config.dmrs_length
    first_symbols = config.dmrs_symbols[::length]
    ue["n_positions"], ue["dmrs_length"] = len(first_symbols), length
    ue["dmrs_symbol"][: len(first_symbols)] = first_symbols
    found = codes(config)
    ue["n_codes"] = len(found)
    ue["code_layer"] = -1
    for index, (group, sign) in enumerate(found):
        ue["code_comb"][index], ue["code_sign"][index] = group, sign
        ue["code_filter"][index] = tuning.filter_sets[index]
        ue["residual_part"][index] = max(tuning.residual_parts[index], 1e-3)
    for layer, port in enumerate(config.ports):
        ue["code_layer"][found.index(code_of(port)), port % 2] = layer
    ue["slot_number"], ue["pilot_n_scid"] = config.slot_number, config.dmrs_n_scid
    ue["pilot_n_id"] = config.n_id if config.dmrs_n_id is None else config.dmrs_n_id
    ue["pilot_first_chunk"], ue["pilot_first_bit"] = divmod(_first_pilot_bit(config), CHUNK_BITS)
    ue["pilot_offset"] = placement.pilots
    ue["pilot_stride"] = pilot_words(config)
    beta = dmrs.amplitude(config.n_cdm_groups_without_data)
    ue["pilot_scale"] = 1 / (np.sqrt(2) * beta * length)


def _describe_data(ue: np.void, config: PuschConfig, placement: UePlacement) -> None:
    counts = np.count_nonzero(config.data_mask, axis=1)
    symbols = np.flatnonzero(counts)
    n = symbols.size
    ue["n_groups_without_data"] = config.n_cdm_groups_without_data
    ue["n_data_symbols"] = n
    ue["data_symbol"][:n] = symbols
    ue["data_start"][:n] = np.cumsum(counts[symbols]) - counts[symbols]
    ue["data_step"][:n] = 12 * config.n_prb // counts[symbols]
    ue["modulation_order"] = config.mcs.modulation_order
    ue["llr_offset"], ue["scrambling_offset"] = placement.llr, placement.scrambling
    ue["scrambling_c_init"], ue["n_coded_bits"] = config.data_c_init, config.sch.n_coded_bits
    ue["llr_scale"] = llr_scale(config.mcs.modulation_order, config.mcs.code_rate)


def channel_values(config: PuschConfig) -> int:
    """Values of the UE's channel estimates, a multiple of 4; three layers take the room of four."""
    n_positions = len(config.dmrs_symbols) // config.dmrs_length
    stride = 4 if config.n_layers == 3 else config.n_layers
    return n_positions * config.n_rx * 12 * config.n_prb * stride


def llr_scale(modulation_order: int, code_rate: float) -> float:
    """Returns LLR steps of the int8 soft bits for 1 of LLR.

    At the SINR that the MCS needs (2 dB above the capacity of its spectral efficiency) the bits
    of a constellation's closest neighbours have LLRs of mean m = 4 a^2 SINR, with a its smallest
    amplitude, and variance 2 m. Two standard deviations above that mean become 48: steps are
    small beside the LLRs' own spread, and the surest bits saturate at 127, which min-sum decoders
    prefer to messages without bound. The scale is the same for all transmissions of a transport
    block with one modulation, so that they may be added up.
    """
    sinr = 10**0.2 * (2 ** (modulation_order * code_rate) - 1)
    # The levels of one dimension are +-1, +-3, ... times a, for a mean power of 1/2.
    n_levels = 2 ** (modulation_order // 2)
    smallest_squared = 1.5 / (n_levels**2 - 1)
    mean = 4 * smallest_squared * sinr
    return float(48 / (mean + 2 * np.sqrt(2 * mean)))


def pilot_words(config: PuschConfig) -> int:
    """Words of one DM-RS symbol's packed pilots."""
    n_bits = _first_pilot_bit(config) % CHUNK_BITS + 12 * config.n_prb
    return -(-n_bits // CHUNK_BITS) * CHUNK_WORDS


def scrambling_words(config: PuschConfig) -> int:
    """Words of the UE's packed scrambling sequence."""
    return -(-config.sch.n_coded_bits // CHUNK_BITS) * CHUNK_WORDS


def _first_pilot_bit(config: PuschConfig) -> int:
    """Bits of the DM-RS sequence before the allocation: two a pilot, six pilots a PRB."""
    return 12 * config.allocated_prbs[0]


def pack_grid(grid: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.float16]:
    """Returns samples as pairs of half floats: float16[..., 2]. Their mean power should be near 1:
    powers from -80 to +60 dB keep 11 bits of every part."""
    parts = np.stack([grid.real, grid.imag], axis=-1)
    with np.errstate(over="ignore"):
        return parts.astype(np.float16)
