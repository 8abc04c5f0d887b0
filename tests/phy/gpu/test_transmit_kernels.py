"""Transport blocks to symbols: the kernels against the array path, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from phy.gpu.transmit import (
    Encoder,
    constellations,
    encoder_prelude,
    pack_scrambling,
    pack_tbs,
    plan_transmission,
    to_device,
)
from phy.gpu.transport import powers
from phy.nr import layer_mapping, modulation, sch
from phy.nr.sch import SchConfig

from .host_kernel import launch

# Two graphs, one and several code blocks of unequal lengths, repetition, a limited buffer, all
# orders, one to four layers, lifting sizes of whole words, of other sizes and below a word.
CONFIGS = [
    SchConfig(848, 0.5, 2, 1, 1700),
    SchConfig(16 * 1024 + 8, 0.6, 6, 2, 12 * 2303),
    SchConfig(320, 0.2, 1, 1, 3000),
    SchConfig(9224, 0.85, 8, 3, 24 * 471, rv=2),
    SchConfig(9224, 0.85, 4, 1, 4 * 5000, rv=3, limited_buffer_bits=9000),
    SchConfig(2024, 0.6, 4, 4, 16 * 250, rv=1),
    SchConfig(24, 0.1, 2, 2, 640),
    SchConfig(8424, 0.9, 8, 4, 32 * 294),
]


def case(configs, rng):
    """Transport blocks, scrambling sequences, and the symbols the array path makes of them."""
    tbs = [rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8) for config in configs]
    sequences = [rng.integers(0, 2, config.n_coded_bits, dtype=np.uint8) for config in configs]
    symbols = []
    for tb, sequence, config in zip(tbs, sequences, configs, strict=True):
        sent = modulation.map(sch.encode(tb, config) ^ sequence, config.modulation_order)
        symbols.append(layer_mapping.map(sent, config.n_layers).reshape(-1))
    return tbs, sequences, np.concatenate(symbols)


def as_halves(symbols):
    return symbols.view(np.float32).reshape(-1, 2).astype(np.float16)


def run_on_host(tbs, sequences, plan, half):
    n_tb = len(plan.transmissions)
    blocks = (plan.table, plan.tb_of_block, plan.index_of_block)
    packed = pack_tbs(tbs, plan)
    control = np.array([plan.n_blocks], np.int32)
    sums, crc = np.zeros((n_tb, 2), np.uint32), np.zeros(n_tb, np.uint32)
    launch(
        *("crc", "tb_crc", "", plan.n_blocks, 128),
        *(packed, *blocks, plan.tb_weight, powers(), control, sums, crc),
    )
    assert not sums.any()
    points = constellations(half=half)
    symbols = np.full((plan.n_symbols, *points.shape[1:]), 99, points.dtype)
    for group in plan.groups:
        n_blocks = group.blocks.stop - group.blocks.start
        launch(
            *("encode", "encode", encoder_prelude(*group[:2], half=half), n_blocks, 128),
            *(packed, *blocks, crc, powers(), pack_scrambling(sequences, plan), points, control),
            *(group.blocks.start, symbols),
        )
    return symbols


@pytest.mark.parametrize("config", CONFIGS)
def test_the_kernels_run_on_the_host_send_what_the_array_path_sends(config, rng) -> None:
    tbs, sequences, expected = case([config], rng)
    symbols = run_on_host(tbs, sequences, plan_transmission([config]), half=True)
    np.testing.assert_array_equal(symbols, as_halves(expected))


def test_many_transport_blocks_go_in_one_launch_a_size(rng) -> None:
    configs = [CONFIGS[0], CONFIGS[6], CONFIGS[0]]
    tbs, sequences, expected = case(configs, rng)
    plan = plan_transmission(configs)
    assert [group.blocks for group in plan.groups] == [slice(0, 1), slice(1, 3)]
    symbols = run_on_host(tbs, sequences, plan, half=False)
    np.testing.assert_array_equal(symbols, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [True, False])
def test_the_kernels_on_the_gpu_send_what_the_array_path_sends(cp, half, rng) -> None:
    configs = CONFIGS + CONFIGS[:2]
    tbs, sequences, expected = case(configs, rng)
    plan = plan_transmission(configs)
    encoder = Encoder(plan, half=half)
    points = constellations(half=half)
    inputs = cp.asarray(pack_tbs(tbs, plan)), to_device(plan)
    scrambling = cp.asarray(pack_scrambling(sequences, plan))
    for _ in range(2):  # the second launch finds the sums as the first has left them
        symbols = cp.full((plan.n_symbols, *points.shape[1:]), 99, points.dtype)
        encoder.launch(*inputs, scrambling, symbols)
        found = cp.asnumpy(symbols)
        np.testing.assert_array_equal(found, as_halves(expected) if half else expected)
