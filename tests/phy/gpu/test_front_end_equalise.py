"""From the grid to soft bits on the GPU: the twin against the receiver, kernels against twins."""

from __future__ import annotations

import numpy as np
import pytest

from phy import PuschReceiver, ReceiverOptions
from phy.gpu import front_end_twin as twin
from phy.gpu.front_end_layout import UE_RESULT, llr_scale
from phy.gpu.packed_slot import PackedSlot
from phy.nr import sch

from .slots import Slot, emulate, simulate

ALLOCATIONS = [
    {"n_prb": 24, "n_layers": 4, "n_rx": 4, "mcs_index": 16},
    {"n_prb": 11, "n_layers": 1, "n_rx": 2, "n_cdm_groups_without_data": 1, "mcs_index": 3},
    {
        "n_prb": 5,
        "n_layers": 2,
        "n_rx": 3,
        "start_prb": 93,
        "carrier_start_prb": 90,
        "mcs_index": 9,
    },
    {"n_prb": 16, "n_layers": 3, "n_rx": 4, "dmrs_additional_positions": 2, "mcs_index": 12},
    {"n_prb": 9, "n_layers": 4, "n_rx": 8, "dmrs_length": 2, "dmrs_ports": (0, 1, 4, 6)},
    {"n_prb": 9, "n_layers": 2, "n_rx": 2, "dmrs_ports": (1, 3), "n_symbols": 9, "mcs_index": 7},
    {"n_prb": 7, "n_layers": 1, "n_rx": 1, "mcs_table": 2, "mcs_index": 22},
    {"n_prb": 18, "n_layers": 4, "n_rx": 12, "mcs_table": 2, "mcs_index": 20},
]


def slot_of(rng: np.random.Generator, is_irc: bool = False) -> Slot:
    return simulate(
        [{"mcs_index": 10, **each} for each in ALLOCATIONS],
        rng,
        is_irc,
        snr_db=26.0,
        doppler_hz=30.0,
        frequency_offset_hz=80.0,
        interference_to_noise_db=12.0 if is_irc else None,
    )


def run_twin(packed: PackedSlot, ue: np.void) -> tuple[np.ndarray, np.void]:
    channel, result = twin.estimate(ue, packed.samples, packed.pilots, packed.taps)
    whitening = None
    if ue["is_irc"]:
        channel, *whitening = twin.whiten(ue, packed.samples, packed.pilots, channel)
    llr = twin.equalise(ue, packed.samples, channel, packed.scrambling, result, whitening)
    return llr, result


@pytest.mark.parametrize("is_irc", [False, True])
def test_twin_separates_layers_as_well_as_the_receiver(rng, is_irc: bool) -> None:
    # Known, so that what separates the two is the channel alone; interference is for both to find.
    noise_var = None if is_irc else 10**-2.6
    slot = slot_of(rng, is_irc)
    ues = slot.packed.ues
    ues["noise_var"] = -1.0 if noise_var is None else noise_var
    for ue, config, grid, tb in zip(ues, slot.configs, slot.grids, slot.tbs, strict=True):
        llr, result = run_twin(slot.packed, ue)
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
    found = emulate(slot.packed)
    for name in ("pilots", "scrambling"):
        expected = getattr(slot.packed, name)
        np.testing.assert_array_equal(found[name][: expected.size], expected)
    for ue, config, result in zip(slot.packed.ues, slot.configs, found["results"], strict=True):
        expected, of_twin = run_twin(slot.packed, ue)
        own = found["llr"][int(ue["llr_offset"]) :][: expected.size]
        difference = np.abs(own.astype(int) - expected)
        # Sums in another order may round a soft bit the other way.
        assert difference.max() <= 2, config
        assert np.mean(difference > 0) < 0.02, config
        for field in UE_RESULT.names:
            np.testing.assert_allclose(result[field], of_twin[field], rtol=2e-3, atol=1e-4)
        if not is_irc:
            channel, _ = twin.estimate(
                ue, slot.packed.samples, slot.packed.pilots, slot.packed.taps
            )
            np.testing.assert_allclose(twin.channel_of(ue, found["channel"]), channel, atol=2e-3)


def test_a_data_sample_that_is_not_finite_costs_its_own_soft_bits(rng) -> None:
    slot = slot_of(rng)
    ue = slot.packed.ues[0]
    symbol, subcarrier = int(ue["data_symbol"][3]), 17
    at = int(ue["grid_offset"]) + symbol * int(ue["grid_width"]) + subcarrier
    slot.packed.samples[at] = np.inf
    found = emulate(slot.packed)
    n_bytes = 4 * slot.configs[0].mcs.modulation_order
    first = (int(ue["data_start"][3]) + subcarrier) * n_bytes
    llr = found["llr"]
    assert not llr[first : first + n_bytes].any()
    assert llr[first - n_bytes : first].any()
    assert llr[first + n_bytes : first + 2 * n_bytes].any()
    assert found["results"]["is_bad"].tolist() == [1] + [0] * 7


def test_a_pilot_that_is_not_finite_costs_its_ue_alone(rng) -> None:
    slot = slot_of(rng)
    ue = slot.packed.ues[1]
    symbol = int(ue["dmrs_symbol"][0])
    slot.packed.samples[int(ue["grid_offset"]) + symbol * int(ue["grid_width"]) + 4, 0] = np.nan
    found = emulate(slot.packed)
    assert found["results"]["is_bad"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    first, n_bits = int(ue["llr_offset"]), slot.configs[1].sch.n_coded_bits
    assert not found["llr"][first : first + n_bits].any()


@pytest.mark.parametrize(("order", "code_rate"), [(2, 0.12), (4, 0.5), (6, 0.89), (8, 0.93)])
def test_soft_bits_use_their_range(order: int, code_rate: float) -> None:
    scale = llr_scale(order, code_rate)
    sinr = 10**0.2 * (2 ** (order * code_rate) - 1)
    strongest = scale * 4 * sinr
    assert strongest > 10
    # The weakest bits of the constellation are many steps, too.
    assert strongest * 1.5 / (2**order - 1) > 4
