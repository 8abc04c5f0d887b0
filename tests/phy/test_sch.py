from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import crc, ldpc, mcs, modulation, sch, tbs
from phy.nr.sch import SchConfig
from phy.nr.segmentation import block_lengths, segment


def as_llr(coded: np.ndarray, noise_std: float, rng: np.random.Generator) -> np.ndarray:
    noisy = 1.0 - 2.0 * coded + noise_std * rng.standard_normal(coded.shape)
    return (2 * noisy / max(noise_std, 0.1) ** 2).astype(np.float32)


@pytest.mark.parametrize(
    ("tb_size_bits", "graph", "n_blocks", "lifting_size", "tb_crc", "n_filler"),
    # Worked by hand along TS 38.212 5.2.2 and 6.2.1.
    # K' is a code block with its CRC, K = 22 Z or 10 Z.
    [
        (24, 2, 1, 7, "16", 30),  # K' 40, K_b 6: 6 * 7 >= 40; K = 70
        (3824, 1, 1, 176, "16", 32),  # K' 3840, K_b 22: 22 * 176 = 3872
        (3824, 2, 1, 384, "16", 0),  # just fits graph 2
        (8424, 1, 1, 384, "24A", 0),  # just fits graph 1
        (18_960, 1, 3, 320, "24A", 688),  # B = 18984, K' = 6328 + 24; 22 * 288 = 6336 is too few
        (9_984, 2, 3, 352, "24A", 160),  # B = 10008, K' = 3336 + 24 = 3360; K = 3520
    ],
)
def test_segmentation_worked_by_hand(
    tb_size_bits, graph, n_blocks, lifting_size, tb_crc, n_filler
) -> None:
    cut = segment(tb_size_bits, graph)
    assert (cut.n_code_blocks, cut.tb_crc) == (n_blocks, tb_crc)
    assert (cut.lifting_size, cut.n_filler) == (lifting_size, n_filler)


def test_coded_bits_are_shared_out_short_blocks_first() -> None:
    # TS 38.212 5.4.2.1: G = 25 units over 3 blocks: floor for the first, ceiling for the rest.
    assert block_lengths(25 * 8, 3, 2, 4) == [64, 64, 72]
    assert block_lengths(24 * 8, 3, 2, 4) == [64, 64, 64]


def test_encoding_is_the_chain_of_its_parts(rng) -> None:
    tb = rng.integers(0, 2, 18_960, dtype=np.uint8)
    config = SchConfig(18_960, 658 / 1024, 4, 1, 29_376, rv=2)
    blocks = crc.append(crc.append(tb, "24A").reshape(3, -1), "24B")
    info = np.zeros((3, 22 * 320), np.uint8)
    info[:, :6352] = blocks
    coded = ldpc.encode(info, 1, 320)
    expected = [
        ldpc.rate_match(coded[[i]], 9792, 2, 4, 1, 320, n_filler=688).reshape(-1) for i in range(3)
    ]
    assert np.array_equal(sch.encode(tb, config), np.concatenate(expected))


@st.composite
def allocations(draw: st.DrawFn) -> SchConfig:
    table = draw(st.sampled_from([1, 2, 3]))
    chosen = mcs.lookup(table, draw(st.integers(0, 27)))
    n_prb = draw(st.integers(1, 40))
    n_layers = draw(st.integers(1, 2))
    order, rate = chosen.modulation_order, chosen.code_rate
    size = tbs.size(n_prb, 14, 24, order, rate, n_layers)
    n_coded = n_prb * 144 * order * n_layers
    return SchConfig(size, rate, order, n_layers, n_coded)


@settings(max_examples=60)
@given(config=allocations(), seed=st.integers(0, 2**32 - 1))
def test_a_clear_block_of_any_allocation_comes_back(config, seed) -> None:
    rng = np.random.default_rng(seed)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    coded = sch.encode(tb, config)
    assert coded.shape == (config.n_coded_bits,)
    found = sch.decode(as_llr(coded, 0.1, rng), config, n_iterations=30)
    assert found.crc_ok
    assert np.array_equal(found.tb, tb)


def harq_config(rv: int, limited_buffer_bits: int | None = None) -> SchConfig:
    return SchConfig(4032, 0.6, 4, 1, 6720, rv=rv, limited_buffer_bits=limited_buffer_bits)


@pytest.mark.parametrize("limited_buffer_bits", [None, 9000])
def test_retransmissions_add_up_to_a_block_none_of_them_carries(limited_buffer_bits, rng) -> None:
    tb = rng.integers(0, 2, 4032, dtype=np.uint8)
    soft_buffer, alone_ok, together_ok = None, [], []
    for rv in (0, 2, 3, 1):
        config = harq_config(rv, limited_buffer_bits)
        llr = as_llr(sch.encode(tb, config), 1.25, rng)
        alone_ok.append(sch.decode(llr, config).crc_ok)
        found = sch.decode(llr, config, soft_buffer)
        soft_buffer = found.soft_buffer
        together_ok.append(found.crc_ok)
    assert not any(alone_ok)
    assert not together_ok[0]
    assert together_ok[-1]
    assert np.array_equal(found.tb, tb)


def test_the_soft_buffer_handed_in_is_left_alone(rng) -> None:
    config = harq_config(0)
    llr = as_llr(sch.encode(rng.integers(0, 2, 4032, dtype=np.uint8), config), 1.0, rng)
    buffer = sch.decode(llr, config).soft_buffer
    before = buffer.copy()
    sch.decode(llr, config, buffer)
    assert np.array_equal(buffer, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_llrs_never_crash_and_nan_never_passes(bad, rng) -> None:
    config = harq_config(0)
    tb = rng.integers(0, 2, 4032, dtype=np.uint8)
    llr = as_llr(sch.encode(tb, config), 0.3, rng)
    llr[rng.integers(0, llr.size, 5)] = bad
    found = sch.decode(llr, config)
    assert np.isfinite(found.soft_buffer).all()
    if np.isnan(bad):
        assert not found.crc_ok
    else:
        assert found.crc_ok == np.array_equal(found.tb, tb)
    nothing_else = sch.decode(np.full_like(llr, bad), config)
    assert not nothing_else.crc_ok or bad == np.inf  # certain zeros everywhere are a code word


def test_nan_in_the_soft_buffer_never_passes(rng) -> None:
    config = harq_config(0)
    llr = as_llr(sch.encode(rng.integers(0, 2, 4032, dtype=np.uint8), config), 0.3, rng)
    buffer = sch.decode(llr, config).soft_buffer
    assert sch.decode(llr, config, buffer).crc_ok
    buffer[0, 5] = np.nan
    found = sch.decode(llr, config, buffer)
    assert not found.crc_ok
    assert np.isfinite(found.soft_buffer).all()


def test_soft_values_stay_bounded_over_any_number_of_retransmissions(rng) -> None:
    config = harq_config(0)
    tb = rng.integers(0, 2, 4032, dtype=np.uint8)
    llr = np.where(sch.encode(tb, config) == 0, 9e4, -9e4).astype(np.float32)
    buffer = None
    for _ in range(4):
        found = sch.decode(llr, config, buffer)
        buffer = found.soft_buffer
    assert np.abs(buffer).max() <= 1e5
    assert found.crc_ok
    assert np.array_equal(found.tb, tb)


def test_threads_decode_what_one_thread_decodes(rng) -> None:
    tb = rng.integers(0, 2, 18_960, dtype=np.uint8)
    config = SchConfig(18_960, 658 / 1024, 4, 1, 29_376)
    llr = as_llr(sch.encode(tb, config), 0.6, rng)
    alone, shared = sch.decode(llr, config), sch.decode(llr, config, n_threads=2)
    assert alone.crc_ok
    assert shared.crc_ok
    assert np.array_equal(alone.iterations, shared.iterations)
    assert np.array_equal(shared.tb, tb)


def test_silence_never_passes() -> None:
    config = harq_config(0)
    assert not sch.decode(np.zeros(config.n_coded_bits, np.float32), config).crc_ok


def test_a_block_of_zeros_is_a_block_like_any_other(rng) -> None:
    config = harq_config(0)
    tb = np.zeros(4032, np.uint8)
    found = sch.decode(as_llr(sch.encode(tb, config), 0.3, rng), config)
    assert found.crc_ok
    assert not found.tb.any()


@pytest.mark.parametrize("noise_std", [0.6, 0.75, 0.9, 3.0])
def test_crc_ok_says_whether_the_block_is_right(noise_std, rng) -> None:
    config = harq_config(0)
    for _ in range(15):
        tb = rng.integers(0, 2, 4032, dtype=np.uint8)
        found = sch.decode(as_llr(sch.encode(tb, config), noise_std, rng), config)
        assert found.crc_ok == np.array_equal(found.tb, tb)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tb_size_bits": 0}, "tb_size_bits"),
        ({"tb_size_bits": 18_961}, "tb_size_bits"),
        ({"code_rate": 1.5}, "code_rate"),
        ({"modulation_order": 7}, "modulation_order"),
        ({"n_layers": 5}, "n_layers"),
        ({"n_coded_bits": 29_377}, "n_coded_bits"),
        ({"n_coded_bits": 8}, "n_coded_bits"),
        ({"rv": 5}, "rv"),
        ({"limited_buffer_bits": 10}, "limited_buffer_bits"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    good = {
        "tb_size_bits": 18_960,
        "code_rate": 658 / 1024,
        "modulation_order": 4,
        "n_layers": 1,
        "n_coded_bits": 29_376,
    }
    with pytest.raises(InvalidInputError) as caught:
        SchConfig(**(good | changed))
    assert caught.value.field == field


def test_wrong_arrays_are_named() -> None:
    config = harq_config(0)
    llr = np.zeros(config.n_coded_bits, np.float32)
    for call, field in (
        (lambda: sch.encode(np.zeros(4031, np.uint8), config), "tb"),
        (lambda: sch.decode(llr[1:], config), "llr"),
        (lambda: sch.decode(llr.astype(np.int8), config), "llr"),
        (lambda: sch.decode(llr, config, np.zeros((1, 5), np.float32)), "soft_buffer"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field


def test_256qam_at_its_highest_rate_decodes_one_decibel_from_where_it_must_fail(rng) -> None:
    # The surest of its bits have LLRs thirty times those of the least sure, which decide.
    config = SchConfig(
        tb_size_bits=67584, code_rate=948 / 1024, modulation_order=8, n_layers=1, n_coded_bits=73440
    )
    n_good = 0
    for _ in range(4):
        tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
        symbols = modulation.map(sch.encode(tb, config), 8)
        noise = rng.standard_normal((2, symbols.size)) * np.sqrt(10**-2.57 / 2)
        llr = modulation.demap(symbols + noise[0] + 1j * noise[1], 10**-2.57, 8)
        n_good += np.array_equal(sch.decode(llr, config).tb, tb)
    assert n_good == 4
