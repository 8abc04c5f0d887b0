"""Channel estimation on the GPU: the twin against the receiver, the kernel against the twin."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import phy
from phy import PuschConfig
from phy.channel import ChannelConfig
from phy.gpu import front_end_twin as twin
from phy.gpu.front_end_layout import UE_DESCRIPTOR, UE_RESULT

from .emulation import emulated
from .slots import PackedSlot, empty, pack, simulate

ALLOCATIONS = [
    {"n_prb": 24, "n_layers": 4, "n_rx": 4},
    {"n_prb": 11, "n_layers": 1, "n_rx": 2, "n_cdm_groups_without_data": 1},
    {"n_prb": 5, "n_layers": 2, "n_rx": 3, "start_prb": 3, "carrier_start_prb": 0},
    {"n_prb": 16, "n_layers": 3, "n_rx": 4, "dmrs_additional_positions": 2},
    {"n_prb": 20, "n_layers": 4, "n_rx": 8, "dmrs_length": 2, "dmrs_ports": (0, 1, 4, 6)},
    {"n_prb": 8, "n_layers": 2, "n_rx": 2, "dmrs_ports": (1, 3), "dmrs_additional_positions": 0},
]


def received(rng: np.random.Generator, snr_db: float = 25.0) -> PackedSlot:
    configs = [PuschConfig(mcs_index=10, rnti=i, **each) for i, each in enumerate(ALLOCATIONS, 1)]
    both = [
        simulate(
            config,
            ChannelConfig(n_rx=config.n_rx, n_tx=config.n_layers, snr_db=snr_db, doppler_hz=50.0),
            rng,
        )
        for config in configs
    ]
    return pack(configs, [grid for grid, _ in both], [tb for _, tb in both])


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
    for ue, config, estimate in zip(slot.ues, slot.configs, slot.estimates, strict=True):
        channel, result = twin.estimate(ue, slot.samples, slot.pilots, slot.taps)
        found = channel[..., 0] + 1j * channel[..., 1].astype(np.float32)
        expected = estimate.at_positions.transpose(2, 0, 3, 1)
        error = np.mean(np.abs(found - expected) ** 2)
        # Windows differ near the edges; elsewhere rounding to half floats is all.
        assert error < 0.5 * estimate.noise_var, config
        power = (np.abs(expected) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(result["position_power"][: power.size], power, rtol=0.02)


def test_noise_is_measured_from_the_residual(rng) -> None:
    slot = received(rng, snr_db=20.0)
    for ue, config in zip(slot.ues, slot.configs, strict=True):
        _, result = twin.estimate(ue, slot.samples, slot.pilots, slot.taps)
        if config.n_prb >= 16:
            assert result["noise_var"] == pytest.approx(0.01, rel=0.15)


def test_kernel_agrees_with_the_twin(rng) -> None:
    slot = received(rng)
    ues = empty(slot.ues)
    channel = np.full((slot.n_channel, 2), 99, np.float16)
    results = launch_estimate(slot, ues, channel)
    for ue, result in zip(slot.ues, results[1:], strict=True):
        expected, of_twin = twin.estimate(ue, slot.samples, slot.pilots, slot.taps)
        own = twin.channel_of(ue, channel)
        assert not np.any(own == 99)
        np.testing.assert_allclose(own, expected, atol=2e-3)
        for field in UE_RESULT.names:
            np.testing.assert_allclose(result[field], of_twin[field], rtol=1e-3, atol=1e-5)


def launch_estimate(slot: PackedSlot, ues: np.ndarray, channel: np.ndarray) -> np.ndarray:
    module = emulated("estimate.cu")
    n_tiles = -(-int(ues["n_subcarriers"].max()) // 64) + 1
    partial = np.full((ues.size, n_tiles, 20), np.nan, np.float32)
    results = np.zeros(ues.size, UE_RESULT)
    module.launch(
        "estimate",
        (n_tiles, ues.size),
        128,
        *(ues, slot.samples, slot.pilots, slot.taps, channel, partial),
    )
    module.launch("finish_estimates", (ues.size,), 32, ues, partial, results, n_tiles)
    return results


def test_a_sample_that_is_not_finite_marks_its_ue_alone(rng) -> None:
    slot = received(rng)
    symbol = int(slot.ues[1]["dmrs_symbol"][0])
    at = int(slot.ues[1]["grid_offset"]) + symbol * int(slot.ues[1]["grid_width"]) + 4
    slot.samples[at, 0] = np.nan
    results = launch_estimate(slot, slot.ues, np.zeros((slot.n_channel, 2), np.float16))
    assert results["is_bad"].tolist() == [0, 1, 0, 0, 0, 0]
