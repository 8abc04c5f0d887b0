"""Rate recovery and CRC checks: kernels, twins, and the array path."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.gpu import ldpc_twin, receive_twin
from phy.gpu.ldpc_layout import ldpc_layout
from phy.gpu.receive import CrcCheck, RateRecovery, to_device
from phy.gpu.transport import SoftBuffer, plan_reception, powers
from phy.nr import crc, sch
from phy.nr.sch import SchConfig

from .host_kernel import launch

# Two graphs, one and several code blocks, unequal lengths, repetition, a limited buffer, a
# redundancy version that starts among the fillers' neighbours, BPSK, 256QAM.
CONFIGS = [
    SchConfig(848, 0.5, 2, 1, 1700),
    SchConfig(16 * 1024 + 8, 0.6, 6, 2, 12 * 2300),
    SchConfig(320, 0.2, 1, 1, 3000),
    SchConfig(9224, 0.85, 8, 1, 8 * 3000, rv=2),
    SchConfig(9224, 0.85, 4, 1, 4 * 5000, rv=3, limited_buffer_bits=9000),
    SchConfig(2024, 0.6, 4, 4, 16 * 700, rv=1),
]


def received(configs, rng, level=24):
    """Transport blocks and int8 LLRs of all of them, with some noise, as a plan places them."""
    tbs = [rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8) for config in configs]
    llr = []
    for tb, config in zip(tbs, configs, strict=True):
        noisy = 1.0 - 2.0 * sch.encode(tb, config) + 0.2 * rng.standard_normal(config.n_coded_bits)
        llr.append(np.clip(np.rint(level * noisy), -127, 127).astype(np.int8))
        llr.append(np.zeros(-config.n_coded_bits % 16, np.int8))
    return tbs, np.concatenate(llr)


def recover_on_host(llr, plan, soft, stage_bytes):
    launch(
        *("rate_recover", "rate_recover", "", plan.n_blocks, 256),
        *(llr, plan.table, plan.blocks.tb_of_block, np.array([plan.n_blocks], np.int32), soft),
        stage_bytes,
    )


def check_on_host(bits, parity_ok, plan):
    n_tb = len(plan.receptions)
    verdicts = np.zeros((n_tb, 4), np.uint32)
    found = receive_twin.JoinedBlocks(
        np.zeros(plan.n_tb_bytes, np.uint8),
        np.full(plan.n_blocks, 77, np.uint8),
        np.full(n_tb, 77, np.uint8),
    )
    launch(
        *("crc", "check_and_join", "", plan.n_blocks, 128),
        *(bits, parity_ok, plan.table, plan.blocks.tb_of_block, plan.blocks.tb_weight, powers()),
        *(np.array([plan.n_blocks], np.int32), verdicts),
        *(found.tb_bytes, found.block_ok, found.crc_ok),
    )
    assert not verdicts.any()
    return found


def decoded(llr, plan, n_iterations=6):
    """What the decoder's twin makes of the soft buffers: bits of all code blocks, parity_ok."""
    bits = np.zeros(plan.n_words, np.uint32)
    parity_ok = np.zeros(plan.n_blocks, np.uint8)
    for group in plan.groups:
        layout = ldpc_layout(group.base_graph, group.lifting_size, group.n_rows)
        places = 16 * plan.blocks.llr_at[group.blocks].astype(int)
        rows = places[:, None] + np.arange(layout.graph.n_coded_bits)
        used = (layout.graph.n_info_columns - 2 + group.n_rows) * group.lifting_size
        values = np.where(np.arange(rows.shape[1]) < used, llr[rows], np.int8(0))
        found = ldpc_twin.decode(values, layout, n_iterations, 0.75)
        bits[group.words] = found.bits.reshape(-1)
        parity_ok[group.blocks] = found.parity_ok
    return bits, parity_ok


def assert_same(found, expected) -> None:
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


def dirty(n, rng):
    """A pool of soft buffers in which others have left their LLRs."""
    return rng.integers(-127, 128, n).astype(np.int8)


def test_the_twins_bring_back_the_transport_blocks(rng) -> None:
    tbs, llr = received(CONFIGS, rng)
    plan = plan_reception(CONFIGS)
    soft = dirty(plan.n_soft_bytes, rng)
    receive_twin.rate_recover(llr, plan, soft)
    found = receive_twin.check_and_join(*decoded(soft, plan), plan)
    assert found.crc_ok.all()
    assert found.block_ok.all()
    for tb, reception in zip(tbs, plan.receptions, strict=True):
        packed = np.packbits(tb)
        at = reception.tb_at
        np.testing.assert_array_equal(found.tb_bytes[at : at + packed.size], packed)


def test_the_twin_recovers_what_the_array_path_recovers(rng) -> None:
    for config in CONFIGS:
        _, llr = received([config], rng, level=3)
        plan = plan_reception([config])
        soft = dirty(plan.n_soft_bytes, rng)
        receive_twin.rate_recover(llr, plan, soft)
        real = sch.decode(llr[: config.n_coded_bits].astype(np.float32), config).soft_buffer
        tb = plan.receptions[0]
        ours = soft.reshape(tb.n_blocks, -1)[:, : tb.n_after]
        np.testing.assert_array_equal(ours, np.clip(real[:, : tb.n_after], -127, 127))
        assert not real[:, tb.n_after :].any()


def test_retransmissions_are_added_up(rng) -> None:
    config = SchConfig(4000, 0.9, 4, 1, 4400)
    again = SchConfig(4000, 0.9, 4, 1, 4400, rv=2)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    plan = plan_reception([config])
    soft = dirty(plan.n_soft_bytes, rng)
    crc_ok = []
    for transmission in (config, again):
        sent = 1.0 - 2.0 * sch.encode(tb, transmission)
        llr = np.clip(np.rint(20 * (sent + 0.75 * rng.standard_normal(sent.size))), -127, 127)
        filled = plan.receptions[0].n_after if crc_ok else 0
        plan = plan_reception([transmission], [SoftBuffer(0, filled)])
        receive_twin.rate_recover(llr.astype(np.int8), plan, soft)
        found = receive_twin.check_and_join(*decoded(soft, plan, 12), plan)
        crc_ok.append(int(found.crc_ok[0]))
    assert crc_ok == [0, 1]
    np.testing.assert_array_equal(found.tb_bytes[:500], np.packbits(tb))


@pytest.mark.parametrize("stage_bytes", [0, 96 * 1024])
def test_rate_recovery_run_on_the_host_equals_its_twin(stage_bytes, rng) -> None:
    _, llr = received(CONFIGS, rng)
    plan = plan_reception(CONFIGS)
    ours = dirty(plan.n_soft_bytes, rng)
    twins = ours.copy()
    recover_on_host(llr, plan, ours, stage_bytes)
    receive_twin.rate_recover(llr, plan, twins)
    np.testing.assert_array_equal(ours, twins)
    # Once more, on top of what is there.
    buffers = [SoftBuffer(tb.soft_at, tb.n_after) for tb in plan.receptions]
    again = plan_reception(CONFIGS, buffers)
    recover_on_host(llr, again, ours, stage_bytes)
    receive_twin.rate_recover(llr, again, twins)
    np.testing.assert_array_equal(ours, twins)


def test_crc_checks_run_on_the_host_equal_their_twin(rng) -> None:
    _, llr = received(CONFIGS, rng)
    plan = plan_reception(CONFIGS)
    soft = np.zeros(plan.n_soft_bytes, np.int8)
    receive_twin.rate_recover(llr, plan, soft)
    bits, parity_ok = decoded(soft, plan)
    assert_same(
        check_on_host(bits, parity_ok, plan), receive_twin.check_and_join(bits, parity_ok, plan)
    )


@pytest.mark.parametrize("place", ["first", "last of the block", "in the transport block's CRC"])
def test_one_wrong_bit_is_seen(place, rng) -> None:
    configs = [CONFIGS[1], CONFIGS[0]]
    _, llr = received(configs, rng)
    plan = plan_reception(configs)
    soft = np.zeros(plan.n_soft_bytes, np.int8)
    receive_twin.rate_recover(llr, plan, soft)
    bits, parity_ok = decoded(soft, plan)
    tb = plan.receptions[0]
    block, bit = {
        "first": (0, 0),
        "last of the block": (0, tb.block_bits - 1),
        "in the transport block's CRC": (tb.n_blocks - 1, tb.payload_bits - 1),
    }[place]
    word = tb.bits_at + block * tb.bits_stride + bit // 32
    bits[word] ^= np.uint32(1 << (31 - bit % 32))
    found = check_on_host(bits, parity_ok, plan)
    assert_same(found, receive_twin.check_and_join(bits, parity_ok, plan))
    assert found.crc_ok.tolist() == [0, 1]
    assert np.flatnonzero(found.block_ok == 0).tolist() == [tb.first_block + block]


def test_silence_passes_no_crc(rng) -> None:
    plan = plan_reception([CONFIGS[1]])
    bits = np.zeros(plan.n_words, np.uint32)
    silent = np.zeros(plan.n_blocks, np.uint8)
    assert check_on_host(bits, silent, plan).crc_ok.tolist() == [0]
    assert check_on_host(bits, silent + np.uint8(1), plan).crc_ok.tolist() == [1]


def test_powers_are_those_of_the_crc(rng) -> None:
    bits = rng.integers(0, 2, 100, dtype=np.uint8)
    for row, poly in zip(powers(), ("24B", "24A", "16"), strict=True):
        coded = crc.append(bits, poly)
        assert np.bitwise_xor.reduce(row[: coded.size][::-1][coded == 1]) == 0


def test_code_blocks_of_broken_bytes_are_refused() -> None:
    config = SchConfig(3 * 2803 - 24, 0.2, 2, 1, 40000)
    assert config.segmentation.n_code_blocks > 1
    with pytest.raises(InvalidInputError) as caught:
        plan_reception([config])
    assert caught.value.field == "tb_size_bits"


@pytest.mark.gpu
def test_rate_recovery_and_crc_checks_on_the_gpu_equal_their_twins(cp, rng) -> None:
    _, llr = received(CONFIGS, rng)
    plan = plan_reception(CONFIGS)
    tables = to_device(plan)
    twins = dirty(plan.n_soft_bytes, rng)
    ours = cp.asarray(twins)
    RateRecovery(plan.longest_e_bits).launch(cp.asarray(llr), tables, ours)
    receive_twin.rate_recover(llr, plan, twins)
    np.testing.assert_array_equal(cp.asnumpy(ours), twins)
    bits, parity_ok = decoded(twins, plan)
    check = CrcCheck(len(CONFIGS))
    expected = receive_twin.check_and_join(bits, parity_ok, plan)
    for _ in range(2):  # the second launch finds the verdicts as the first has left them
        found = receive_twin.JoinedBlocks(
            cp.zeros(plan.n_tb_bytes, cp.uint8),
            cp.full(plan.n_blocks, 77, cp.uint8),
            cp.full(len(CONFIGS), 77, cp.uint8),
        )
        check.launch(cp.asarray(bits), cp.asarray(parity_ok), tables, *vars(found).values())
        on_host = receive_twin.JoinedBlocks(*map(cp.asnumpy, vars(found).values()))
        assert_same(on_host, expected)
