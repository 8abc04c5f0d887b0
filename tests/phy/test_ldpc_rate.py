from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import ldpc, ldpc_rate

N_CODED_COLUMNS = {1: 66, 2: 50}
N_INFO_COLUMNS = {1: 22, 2: 10}
START = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}


def positions_by_the_spec(e_bits, rv, order, base_graph, z, n_filler, n_ref) -> list[int]:
    """TS 38.212 5.4.2.1 and 5.4.2.2 word for word: which coded bit each output bit is."""
    n = N_CODED_COLUMNS[base_graph] * z
    n_cb = n if n_ref is None else min(n, n_ref)
    filler_end = (N_INFO_COLUMNS[base_graph] - 2) * z
    k0 = (START[base_graph][rv] * n_cb) // (N_CODED_COLUMNS[base_graph] * z) * z
    e: list[int] = []
    j = 0
    while len(e) < e_bits:
        position = (k0 + j) % n_cb
        if not filler_end - n_filler <= position < filler_end:
            e.append(position)
        j += 1
    f = [0] * e_bits
    for j in range(e_bits // order):
        for i in range(order):
            f[i + j * order] = e[i * (e_bits // order) + j]
    return f


@st.composite
def rates(draw: st.DrawFn):
    base_graph = draw(st.sampled_from([1, 2]))
    z = draw(st.sampled_from([2, 3, 7, 12, 15, 26]))
    order = draw(st.sampled_from([1, 2, 4, 6, 8]))
    n = N_CODED_COLUMNS[base_graph] * z
    e_bits = order * draw(st.integers(1, 2 * n // order))
    least = (N_INFO_COLUMNS[base_graph] - 2) * z
    n_ref = draw(st.none() | st.integers(least, n + 10))
    n_filler = draw(st.integers(0, least - 1))
    return e_bits, draw(st.integers(0, 3)), order, base_graph, z, n_filler, n_ref


@given(rate=rates(), seed=st.integers(0, 2**32 - 1))
def test_bits_are_selected_and_interleaved_as_the_spec_says(rate, seed) -> None:
    n = N_CODED_COLUMNS[rate[3]] * rate[4]
    coded = np.random.default_rng(seed).integers(0, 2, (2, n), dtype=np.uint8)
    expected = coded[:, positions_by_the_spec(*rate)]
    assert np.array_equal(ldpc.rate_match(coded, *rate), expected)
    e_bits, rv, order, *rest = rate
    by_arrays = ldpc_rate._array_match(coded, ldpc_rate._ring(rv, *rest), e_bits, order)
    assert np.array_equal(by_arrays, expected)


@given(rate=rates(), seed=st.integers(0, 2**32 - 1))
def test_recovery_adds_up_every_copy_of_a_bit(rate, seed) -> None:
    e_bits, _, _, base_graph, z, n_filler, _ = rate
    llr = np.random.default_rng(seed).normal(size=(2, e_bits)).astype(np.float32)
    expected = np.zeros((2, N_CODED_COLUMNS[base_graph] * z))
    for bit, position in enumerate(positions_by_the_spec(*rate)):
        expected[:, position] += llr[:, bit]
    filler_end = (N_INFO_COLUMNS[base_graph] - 2) * z
    expected[:, filler_end - n_filler : filler_end] = ldpc.FILLER_LLR
    recovered = ldpc.rate_recover(llr, *rate)
    assert recovered.dtype == np.float32
    np.testing.assert_allclose(recovered, expected, atol=1e-4)
    _, rv, order, *rest = rate
    by_arrays = np.zeros_like(recovered)
    ldpc_rate._array_recover(llr, ldpc_rate._ring(rv, *rest), order, by_arrays)
    by_arrays[:, filler_end - n_filler : filler_end] = ldpc.FILLER_LLR
    np.testing.assert_allclose(by_arrays, expected, atol=1e-4)


def test_recovery_adds_to_what_earlier_transmissions_left(rng) -> None:
    first, second = rng.normal(size=(2, 3, 40)).astype(np.float32)
    arguments = (2, 2, 4, 5)
    soft = ldpc.rate_recover(first, 40, 0, *arguments)
    expected = soft + ldpc.rate_recover(second, 40, 2, *arguments)
    expected[:, 27:32] = ldpc.FILLER_LLR
    assert ldpc.rate_recover(second, 40, 2, *arguments, out=soft) is soft
    np.testing.assert_allclose(soft, expected, rtol=1e-6)


@pytest.mark.parametrize("out", [np.zeros((1, 199), np.float32), np.zeros((1, 200))])
def test_a_sum_of_another_shape_or_type_is_refused(out) -> None:
    with pytest.raises(InvalidInputError, match="out"):
        ldpc.rate_recover(np.zeros((1, 40), np.float32), 40, 0, 2, 2, 4, 0, out=out)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"e_bits": 0}, "e_bits"),
        ({"e_bits": 41}, "e_bits"),
        ({"rv": 4}, "rv"),
        ({"modulation_order": 3}, "modulation_order"),
        ({"n_filler": -1}, "n_filler"),
        ({"n_ref": 1}, "n_ref"),
        ({"lifting_size": 1}, "lifting_size"),
    ],
)
def test_wrong_arguments_are_named(changed, field) -> None:
    arguments = {
        "e_bits": 40,
        "rv": 0,
        "modulation_order": 2,
        "base_graph": 2,
        "lifting_size": 4,
        "n_filler": 0,
    } | changed
    with pytest.raises(InvalidInputError) as caught:
        ldpc.rate_match(np.zeros((1, 200), np.uint8), **arguments)
    assert caught.value.field == field
    with pytest.raises(InvalidInputError) as caught:
        ldpc.rate_recover(np.zeros((1, 40), np.float32), **arguments)
    assert caught.value.field == field


def test_llrs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="llr"):
        ldpc.rate_recover(np.zeros((1, 41), np.float32), 40, 0, 2, 2, 4, 0)
