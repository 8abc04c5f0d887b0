from __future__ import annotations

import math

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.nr import low_papr

SHORT = (6, 12, 18, 24)


def cubic_metric_db(spectrum: np.ndarray) -> float:
    """The measure that the tables were searched by: TS 38.101-1's cubic metric, in dB."""
    envelope = np.abs(np.fft.ifft(spectrum, 16 * spectrum.size))
    envelope /= np.sqrt(np.mean(envelope**2))
    return (20 * math.log10(math.sqrt(np.mean(envelope**6))) - 1.52) / 1.56


def papr_db(spectrum: np.ndarray) -> float:
    power = np.abs(np.fft.ifft(spectrum, 16 * spectrum.size)) ** 2
    return 10 * math.log10(power.max() / power.mean())


@pytest.mark.parametrize(
    ("length", "limit_db"), [(6, 1.39), (12, 0.78), (18, 0.81), (24, 0.81), (30, 2.5)]
)
def test_short_sequences_are_phases_of_low_cubic_metric(length, limit_db) -> None:
    """A single wrong entry would raise the metric above the limit in 85% (length 6) to 98% of the
    cases; a random sequence of length 12 or more always would."""
    for group in range(30):
        r = low_papr.sequence(group, 0, length)
        assert r.dtype == np.complex64
        np.testing.assert_allclose(np.abs(r), 1.0, atol=1e-6)
        assert cubic_metric_db(r) < limit_db
        if length in SHORT:
            eighth_turns = np.angle(r) / (np.pi / 4)
            np.testing.assert_allclose(eighth_turns, np.round(eighth_turns), atol=1e-5)
            assert set(np.round(eighth_turns)) <= {-3, -1, 1, 3}


@pytest.mark.parametrize("length", [*SHORT, 30])
def test_groups_differ_from_each_other(length) -> None:
    rows = np.stack([low_papr.sequence(group, 0, length) for group in range(30)])
    correlation = np.abs(rows.conj() @ rows.T) / length
    assert np.max(correlation - np.eye(30)) < 0.95


def test_printed_rows() -> None:
    """TS 38.211 tables 5.2.2.2-1 to -4, some rows as printed."""
    printed = {
        (6, 0): [-3, -1, 3, 3, -1, -3],
        (6, 29): [1, 1, -3, 1, -1, -1],
        (12, 0): [-3, 1, -3, -3, -3, 3, -3, -1, 1, 1, 1, -3],
        (12, 29): [-3, 3, -3, 3, -3, -3, 3, -1, -1, 1, 3, -3],
        (18, 0): [-1, 3, -1, -3, 3, 1, -3, -1, 3, -3, -1, -1, 1, 1, 1, -1, -1, -1],
        (24, 28): [
            *(-3, 1, -3, 1, -3, 1, 1, 3, 1, -3, -3, -1),
            *(1, 3, -1, -3, 3, 1, -1, -3, -3, -3, -3, -3),
        ],
    }
    for (length, group), phi in printed.items():
        expected = np.exp(1j * np.pi * np.array(phi) / 4)
        np.testing.assert_allclose(low_papr.sequence(group, 0, length), expected, atol=1e-6)


def test_a_published_sequence_of_length_36() -> None:
    """The MathWorks documentation of nrLowPAPRS prints u = 9, v = 0, m = 36 with two shifts."""
    expected = [
        *(1, -0.4404 - 0.8978j, 0.9795 + 0.2013j, 0.9190 + 0.3944j, 0.1514 - 0.9885j),
        *(0.5290 + 0.8486j, 0.1514 + 0.9885j, 0.9795 - 0.2013j, -0.7588 + 0.6514j),
        -0.9949 + 0.1012j,
    ]
    found = low_papr.sequence(9, 0, 36, cyclic_shift=2 * math.pi)
    np.testing.assert_allclose(found[:10], expected, atol=1e-4)
    quarter = low_papr.sequence(9, 0, 36, cyclic_shift=math.pi / 2)
    np.testing.assert_allclose(
        quarter[:4], [1, 0.8978 - 0.4404j, -0.9795 - 0.2013j, 0.3944 - 0.9190j], atol=1e-4
    )


@pytest.mark.parametrize(("length", "n_zc"), [(36, 31), (72, 71), (300, 293), (1638, 1637)])
def test_long_sequences_are_extended_zadoff_chu(length, n_zc) -> None:
    for number in (0, 1) if length >= 72 else (0,):
        for group in (0, 7, 14, 29):
            r = low_papr.sequence(group, number, length)
            np.testing.assert_array_equal(r[n_zc:], r[: length - n_zc])
            # The mark of a Zadoff-Chu sequence of prime length: no cyclic autocorrelation at all.
            core = r[:n_zc].astype(complex)
            autocorrelation = np.fft.ifft(np.abs(np.fft.fft(core)) ** 2) / n_zc
            np.testing.assert_allclose(np.abs(autocorrelation), np.eye(n_zc)[0], atol=1e-4)
            # and the root, read off the second element: x_q(1) = exp(-j 2 pi q / N_ZC).
            q = round(-np.angle(core[1]) / (2 * np.pi) * n_zc) % n_zc
            q_bar = n_zc * (group + 1) / 31
            expected = math.floor(q_bar + 0.5) + number * (-1) ** math.floor(2 * q_bar)
            assert q == expected % n_zc


def test_length_30_is_the_printed_formula() -> None:
    n = np.arange(30)
    for u in (0, 13, 29):
        expected = np.exp(-1j * np.pi * (u + 1) * (n + 1) * (n + 2) / 31)
        np.testing.assert_allclose(low_papr.sequence(u, 0, 30), expected, atol=1e-5)


@pytest.mark.parametrize("length", [6, 30, 36, 96])
def test_cyclic_shifts_by_twelfths_are_orthogonal(length) -> None:
    rows = [low_papr.sequence(3, 0, length, 2 * math.pi * k / 6) for k in range(6)]
    gram = np.stack(rows).conj() @ np.stack(rows).T / length
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-5)


def group_and_number_by_the_spec(
    gold, n_id, slot, symbol, group_hopping, sequence_hopping, m_zc
) -> tuple[int, int]:
    """TS 38.211 6.4.1.1.1.2 with the sums written out."""
    f_gh, v = 0, 0
    start = 14 * slot + symbol
    if group_hopping:
        c = gold(n_id // 30, 8 * start + 8)
        f_gh = sum(2**m * c[8 * start + m] for m in range(8)) % 30
    if sequence_hopping and m_zc >= 6 * 12:
        v = gold(n_id, start + 1)[start]
    return (f_gh + n_id) % 30, v


@pytest.mark.parametrize(("group_hopping", "sequence_hopping"), [(0, 0), (1, 0), (0, 1)])
def test_hopping_is_the_specs(gold_sequence, group_hopping, sequence_hopping) -> None:
    seen = set()
    for n_id, slot, symbol, length in [
        *((n_id, 3, 2, 72) for n_id in range(0, 1008, 61)),
        *((17, slot, 11, 66) for slot in range(0, 20, 3)),
        *((1007, 19, symbol, 600) for symbol in range(14)),
    ]:
        arguments = (n_id, slot, symbol, bool(group_hopping), bool(sequence_hopping), length)
        found = low_papr.pusch_group_and_number(*arguments)
        assert found == group_and_number_by_the_spec(gold_sequence, *arguments)
        if n_id == 1007:
            seen.add(found)
    assert (len(seen) > 1) == bool(group_hopping or sequence_hopping)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: low_papr.sequence(30, 0, 36), "group"),
        (lambda: low_papr.sequence(0, 1, 66), "number"),
        (lambda: low_papr.sequence(0, 2, 72), "number"),
        (lambda: low_papr.sequence(0, 0, 40), "length"),
        (lambda: low_papr.sequence(0, 0, 0), "length"),
        (lambda: low_papr.sequence(0, 0, 36, float("nan")), "cyclic_shift"),
        (lambda: low_papr.pusch_group_and_number(0, 0, 0, True, True, 36), "sequence_hopping"),
        (lambda: low_papr.pusch_group_and_number(0, 0, 14, False, False, 36), "symbol"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
