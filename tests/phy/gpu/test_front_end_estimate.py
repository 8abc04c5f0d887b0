"""Channel estimation on the GPU: the twin against the receiver, the kernel against the twin."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import phy
from airan.core.errors import InvalidInputError
from phy import PuschConfig
from phy.gpu import front_end_twin as twin
from phy.gpu.front_end_filters import follow
from phy.gpu.front_end_layout import UE_DESCRIPTOR, UE_RESULT, check_supported
from phy.gpu.front_end_plan import FrontEndLimits, front_end_program

from .slots import Slot, simulate

ALLOCATIONS = [
    {"n_prb": 24, "n_layers": 4, "n_rx": 4},
    {"n_prb": 11, "n_layers": 1, "n_rx": 2, "n_cdm_groups_without_data": 1},
    {"n_prb": 5, "n_layers": 2, "n_rx": 3, "start_prb": 3, "carrier_start_prb": 0},
    {"n_prb": 16, "n_layers": 3, "n_rx": 4, "dmrs_additional_positions": 2},
    {"n_prb": 20, "n_layers": 4, "n_rx": 8, "dmrs_length": 2, "dmrs_ports": (0, 1, 4, 6)},
    {"n_prb": 8, "n_layers": 2, "n_rx": 2, "dmrs_ports": (1, 3), "dmrs_additional_positions": 0},
]


def received(rng: np.random.Generator, snr_db: float = 25.0) -> Slot:
    return simulate(ALLOCATIONS, rng, snr_db=snr_db, doppler_hz=50.0)


def test_structures_match_the_kernels_header() -> None:
    header = (Path(phy.__file__).parent / "kernels" / "front_end.cuh").read_text()
    for name, dtype in (("Ue", UE_DESCRIPTOR), ("UeResult", UE_RESULT)):
        body = re.search(rf"struct {name} \{{(.*?)\}};", header, re.DOTALL)[1]
        fields = re.findall(r"(int|float) (\w+)((?:\[\w+\])*);", body)
        assert [field for _, field, _ in fields] == list(dtype.names)
        for kind, field, shape in fields:
            sizes = {"MAX_POSITIONS": 4, "MAX_CODES": 4, "MAX_PAIRS": 6, "N_SYMBOLS": 14, "2": 2}
            expected = tuple(sizes[each] for each in re.findall(r"\[(\w+)\]", shape))
            assert dtype[field].shape == expected
            assert dtype[field].base.kind == kind[0]
        assert dtype.itemsize == sum(4 * int(np.prod(dtype[f].shape)) for f in dtype.names)


def test_twin_estimates_the_channel_as_the_receiver_does(rng) -> None:
    slot = received(rng)
    packed = slot.packed
    for ue, config, estimate in zip(packed.ues, slot.configs, packed.estimates, strict=True):
        channel, result = twin.estimate(ue, packed.samples, packed.pilots, packed.taps)
        found = channel[..., 0] + 1j * channel[..., 1].astype(np.float32)
        expected = estimate.at_positions.transpose(2, 0, 3, 1)
        error = np.mean(np.abs(found - expected) ** 2)
        # Windows differ near the edges; elsewhere rounding to half floats is all.
        assert error < 0.1 * estimate.noise_var, config
        power = (np.abs(expected) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(result["position_power"][: power.size], power, rtol=0.02)


def test_noise_is_measured_from_the_residual(rng) -> None:
    slot = received(rng, snr_db=20.0)
    packed = slot.packed
    for ue, config in zip(packed.ues, slot.configs, strict=True):
        _, result = twin.estimate(ue, packed.samples, packed.pilots, packed.taps)
        tolerance = 0.1 if config.n_prb >= 16 else 0.35
        assert result["noise_var"] == pytest.approx(0.01, rel=tolerance), config


def test_motion_is_followed_from_what_the_kernels_sum_up(rng) -> None:
    slot = received(rng)
    packed = slot.packed
    for index, config in enumerate(slot.configs):
        _, result = twin.estimate(packed.ues[index], packed.samples, packed.pilots, packed.taps)
        tuning, motion = follow(config, config.slot_number, result, packed.tunings[index])
        expected = packed.estimates[index].motion[0]
        np.testing.assert_allclose(tuning.time_weights, expected.weights, atol=0.03)
        if not np.isnan(expected.frequency_offset_hz):
            assert motion.frequency_offset_hz == pytest.approx(
                expected.frequency_offset_hz, abs=1.0
            )


@pytest.mark.parametrize(
    "fields",
    [
        {"transform_precoding": True},
        {"dmrs_type": 2},
        {"n_prb": 3, "prbs": (0, 1, 5)},
    ],
)
def test_what_the_kernels_do_not_do_is_refused(fields) -> None:
    config = PuschConfig(**{"n_prb": 12, **fields})
    with pytest.raises(InvalidInputError, match=next(iter(fields.keys() - {"n_prb"}))):
        check_supported(config)


def test_the_plan_holds_the_widest_slot() -> None:
    limits = FrontEndLimits(
        n_ues=40,
        n_prb=273,
        n_rx=(3, 4, 12),
        n_filter_sets=40,
        n_samples=40 * 16 * 14 * 3276,
        n_channel=40 * 4 * 16 * 4 * 3276,
        n_coded_bits=273 * 12 * 14 * 32 - 273 * 12 * 32,
        n_llr=40 * 2**20,
        n_pilot_words=40 * 8 * 128,
        n_scrambling_words=2**20,
        has_irc=True,
    )
    by_kernel = {each.kernel: each for each in front_end_program(limits).launches}
    assert {"equalise_4", "equalise_16", "whiten_4", "whiten_16"} <= by_kernel.keys()
    assert not {"equalise_2", "equalise_8"} & by_kernel.keys()
    n_chunks = -(-limits.n_coded_bits // 512) + 8 * (12 * 273 // 512 + 1)
    generate = by_kernel["generate_sequences"]
    assert generate.grid[0] * generate.n_threads >= n_chunks
    assert by_kernel["equalise_4"].grid[0] * 128 >= 12 * 273
    assert by_kernel["estimate"].grid[0] * 64 >= 12 * 273
