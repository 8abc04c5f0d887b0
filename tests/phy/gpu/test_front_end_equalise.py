"""From the grid to soft bits on the GPU: the twin against the receiver, kernels against twins."""

from __future__ import annotations

import numpy as np
import pytest

from phy import PuschConfig, PuschReceiver, ReceiverOptions
from phy.channel import ChannelConfig
from phy.gpu import front_end_twin as twin
from phy.gpu.front_end_layout import UE_RESULT, llr_scale
from phy.nr import sch

from .emulation import emulated
from .slots import PackedSlot, empty, pack, simulate

ALLOCATIONS = [
    {"n_prb": 24, "n_layers": 4, "n_rx": 4, "mcs_index": 16},
    {"n_prb": 11, "n_layers": 1, "n_rx": 2, "n_cdm_groups_without_data": 1, "mcs_index": 3},
    {"n_prb": 5, "n_layers": 2, "n_rx": 3, "start_prb": 3, "carrier_start_prb": 0, "mcs_index": 9},
    {"n_prb": 16, "n_layers": 3, "n_rx": 4, "dmrs_additional_positions": 2, "mcs_index": 12},
    {"n_prb": 9, "n_layers": 4, "n_rx": 8, "dmrs_length": 2, "dmrs_ports": (0, 1, 4, 6)},
    {"n_prb": 9, "n_layers": 2, "n_rx": 2, "dmrs_ports": (1, 3), "n_symbols": 9, "mcs_index": 7},
    {"n_prb": 7, "n_layers": 1, "n_rx": 1, "mcs_table": 2, "mcs_index": 22},
    {"n_prb": 18, "n_layers": 4, "n_rx": 12, "mcs_table": 2, "mcs_index": 20},
]


def slot_of(rng: np.random.Generator, is_irc: bool = False, snr_db: float = 26.0) -> PackedSlot:
    configs = [
        PuschConfig(rnti=i, **{"mcs_index": 10, **each}) for i, each in enumerate(ALLOCATIONS, 1)
    ]
    both = [
        simulate(
            config,
            ChannelConfig(
                n_rx=config.n_rx,
                n_tx=config.n_layers,
                snr_db=snr_db,
                doppler_hz=30.0,
                frequency_offset_hz=80.0,
                interference_to_noise_db=12.0 if is_irc else None,
            ),
            rng,
        )
        for config in configs
    ]
    return pack(configs, [grid for grid, _ in both], [tb for _, tb in both], is_irc)


def run_twin(slot: PackedSlot, ue: np.void) -> tuple[np.ndarray, np.void]:
    channel, result = twin.estimate(ue, slot.samples, slot.pilots, slot.taps)
    whitening = None
    if ue["is_irc"]:
        channel, *whitening = twin.whiten(ue, slot.samples, slot.pilots, channel)
    llr = twin.equalise(ue, slot.samples, channel, slot.scrambling, result, whitening)
    return llr, result


@pytest.mark.parametrize("is_irc", [False, True])
def test_twin_separates_layers_as_well_as_the_receiver(rng, is_irc: bool) -> None:
    # Known, so that what separates the two is the channel alone; interference is for both to find.
    noise_var = None if is_irc else 10**-2.6
    slot = slot_of(rng, is_irc)
    slot.ues["noise_var"] = -1.0 if noise_var is None else noise_var
    for ue, config, grid, tb in zip(slot.ues, slot.configs, slot.grids, slot.tbs, strict=True):
        llr, result = run_twin(slot, ue)
        options = ReceiverOptions(equaliser="mmse_irc" if is_irc else "mmse")
        expected = PuschReceiver(config, options=options)(grid, noise_var)
        sinr_db = 10 * np.log10(2 ** result["capacity"] - 1)
        # Covariances are measured on half the samples with double-symbol DM-RS.
        tolerance_db = (0.6 if config.n_prb < 16 else 0.15) if is_irc else 0.1
        assert sinr_db == pytest.approx(expected.sinr_db, abs=tolerance_db), config
        found = sch.decode(llr.astype(np.float32), config.sch)
        assert found.crc_ok == expected.crc_ok
        if found.crc_ok:
            np.testing.assert_array_equal(found.tb, tb)


@pytest.mark.parametrize("is_irc", [False, True])
def test_kernels_agree_with_their_twins(rng, is_irc: bool) -> None:
    slot = slot_of(rng, is_irc)
    ues = empty(slot.ues)
    llr, results = launch(slot, ues)
    for ue, config, result in zip(slot.ues, slot.configs, results[1:], strict=True):
        expected, of_twin = run_twin(slot, ue)
        own = llr[int(ue["llr_offset"]) :][: expected.size]
        difference = np.abs(own.astype(int) - expected)
        # Sums in another order may round a soft bit the other way.
        assert difference.max() <= 2, config
        assert np.mean(difference > 0) < 0.02, config
        for field in UE_RESULT.names:
            np.testing.assert_allclose(result[field], of_twin[field], rtol=2e-3, atol=1e-4)


def test_a_sample_that_is_not_finite_costs_its_own_soft_bits(rng) -> None:
    slot = slot_of(rng)
    ue = slot.ues[0]
    symbol, subcarrier = int(ue["data_symbol"][3]), 17
    slot.samples[int(ue["grid_offset"]) + symbol * int(ue["grid_width"]) + subcarrier] = np.inf
    llr, results = launch(slot, slot.ues)
    n_bytes = 4 * slot.configs[0].mcs.modulation_order
    first = (int(ue["data_start"][3]) + subcarrier) * n_bytes
    assert not llr[first : first + n_bytes].any()
    assert llr[first - n_bytes : first].any()
    assert llr[first + n_bytes : first + 2 * n_bytes].any()
    assert results["is_bad"].tolist() == [1] + [0] * 7


def launch(slot: PackedSlot, ues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs the whole front end; soft bits that nothing writes are 99."""
    n_subcarriers, n_ues = int(ues["n_subcarriers"].max()), ues.size
    n_tiles, n_blocks, per_block = -(-n_subcarriers // 64), -(-n_subcarriers // 128), 4
    n_groups = -(-14 // per_block)
    results = np.zeros(n_ues, UE_RESULT)
    channel = np.full((slot.n_channel, 2), np.nan, np.float16)
    partial = np.full((n_ues, n_tiles, 20), np.nan, np.float32)
    whitening = np.full((n_ues, 34, 274), np.nan, np.float32)
    llr = np.full(slot.n_llr, 99, np.int8)
    sums = np.full((n_ues, n_groups, n_blocks, 2), np.nan, np.float32)
    estimate, covariance = emulated("estimate.cu"), emulated("covariance.cu")
    equalise = emulated("equalise.cu")
    arrays = (ues, slot.samples, slot.pilots)
    estimate.launch("estimate", (n_tiles, n_ues), 128, *arrays, slot.taps, channel, partial)
    estimate.launch("finish_estimates", (n_ues,), 32, ues, partial, results, n_tiles)
    for n_rx in (2, 4, 8, 16):
        covariance.launch(f"whiten_{n_rx}", (34, n_ues), 128, *arrays, channel, whitening)
        equalise.launch(
            f"equalise_{n_rx}",
            (n_blocks, n_ues, n_groups),
            128,
            *(ues, slot.samples, channel, whitening, slot.scrambling, llr, sums, results),
            per_block,
        )
    equalise.launch(
        "finish_equaliser", (n_ues,), 32, ues, sums, results, n_blocks, n_groups, per_block
    )
    return llr, results


@pytest.mark.parametrize(("order", "code_rate"), [(2, 0.12), (4, 0.5), (6, 0.89), (8, 0.93)])
def test_soft_bits_use_their_range(order: int, code_rate: float) -> None:
    scale = llr_scale(order, code_rate)
    sinr = 10**0.2 * (2 ** (order * code_rate) - 1)
    strongest = scale * 4 * sinr
    assert strongest > 10
    # The weakest bits of the constellation are many steps, too.
    assert strongest * 1.5 / (2**order - 1) > 4
