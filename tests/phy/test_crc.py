from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import crc

# TS 38.212 5.1, exponents of the generators as the spec prints them.
SPEC_EXPONENTS = {
    "24A": (24, 23, 18, 17, 14, 11, 10, 7, 6, 5, 4, 3, 1, 0),
    "24B": (24, 23, 6, 5, 1, 0),
    "24C": (24, 23, 21, 20, 17, 15, 13, 12, 8, 4, 2, 1, 0),
    "16": (16, 12, 5, 0),
    "11": (11, 10, 9, 5, 0),
    "6": (6, 5, 0),
}


def long_division(bits: np.ndarray, poly: str) -> list[int]:
    exponents = SPEC_EXPONENTS[poly]
    degree = exponents[0]
    word = [int(bit) for bit in bits] + [0] * degree
    for i in range(len(bits)):
        if word[i]:
            for exponent in exponents:
                word[i + degree - exponent] ^= 1
    return word[-degree:]


def as_bits(text: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(text, dtype=np.uint8))


@pytest.mark.parametrize(
    ("poly", "expected"),
    # Check values for "123456789" of the CRC catalogue (reveng): CRC-24/LTE-A, CRC-24/LTE-B,
    # CRC-16/XMODEM: the same generators, zero start value, no reflection.
    [("24A", 0xCDE703), ("24B", 0x23EF52), ("16", 0x31C3)],
)
def test_parity_bits_match_the_catalogue_check_values(poly: str, expected: int) -> None:
    word = crc.append(as_bits(b"123456789"), poly)
    parity = int("".join(map(str, word[72:])), 2)
    assert parity == expected


@pytest.mark.parametrize("poly", SPEC_EXPONENTS)
@pytest.mark.parametrize("n_bits", [1, 5, 24, 25, 49, 200, 1000])
def test_parity_bits_match_long_division_by_the_generator(poly: str, n_bits: int) -> None:
    bits = np.random.default_rng(n_bits).integers(0, 2, n_bits, dtype=np.uint8)
    assert crc.append(bits, poly)[n_bits:].tolist() == long_division(bits, poly)


@given(
    poly=st.sampled_from(sorted(SPEC_EXPONENTS)),
    n_bits=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_one_flipped_bit_is_always_found(
    poly: str, n_bits: int, seed: int, data: st.DataObject
) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (3, n_bits), dtype=np.uint8)
    word = crc.append(bits, poly)
    assert crc.check(word, poly).tolist() == [True, True, True]
    word[1, data.draw(st.integers(0, word.shape[1] - 1))] ^= 1
    assert crc.check(word, poly).tolist() == [True, False, True]


@pytest.mark.parametrize("n_bits", [1, 7, 8, 9, 24, 1000, 8401])
@pytest.mark.parametrize("poly", ["24A", "24B", "24C", "16", "11", "6"])
def test_the_kernel_agrees_with_the_array_code(poly: crc.Poly, n_bits: int) -> None:
    bits = np.random.default_rng(n_bits).integers(0, 2, (2, 3, n_bits), dtype=np.uint8)
    assert np.array_equal(crc._kernel_register(bits, poly), crc._array_register(bits, poly))


def test_batch_axes_come_first() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (2, 3, 40), dtype=np.uint8)
    word = crc.append(bits, "24A")
    assert word.shape == (2, 3, 64)
    assert word.dtype == np.uint8
    assert crc.check(word, "24A").shape == (2, 3)
    assert np.array_equal(word[1, 2], crc.append(bits[1, 2], "24A"))


def test_a_word_of_parity_bits_alone_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="bits"):
        crc.check(np.zeros(24, dtype=np.uint8), "24A")


@pytest.mark.parametrize(
    ("bits", "poly", "field"),
    [
        (np.zeros(4, dtype=np.uint8), "8", "poly"),
        (np.zeros(4, dtype=np.float32), "16", "bits"),
        (np.full(4, 2, dtype=np.uint8), "16", "bits"),
        ([0, 1], "16", "bits"),
    ],
)
def test_wrong_arguments_are_named(bits: object, poly: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        crc.append(bits, poly)  # type: ignore[arg-type]
    assert caught.value.field == field
