from __future__ import annotations

import numpy as np
import pytest

from phy.nr import crc


@pytest.mark.parametrize("poly", ["24A", "24B", "24C", "16", "11", "6"])
@pytest.mark.parametrize("n_bits", [1, 25, 1000, 8424])
def test_parity_is_sionnas(sionna, tensor, rng, poly, n_bits) -> None:
    bits = rng.integers(0, 2, (3, n_bits), dtype=np.uint8)
    theirs = sionna.crc.CRCEncoder(f"CRC{poly}", k=n_bits)(tensor(bits)).numpy()
    assert np.array_equal(crc.append(bits, poly), theirs)


@pytest.mark.parametrize("poly", ["24A", "24B", "24C", "16", "11", "6"])
def test_sound_and_spoilt_blocks_are_told_apart_alike(sionna, tensor, rng, poly) -> None:
    blocks = crc.append(rng.integers(0, 2, (40, 77), dtype=np.uint8), poly)
    blocks[::2, rng.integers(0, blocks.shape[1], 20)] ^= 1
    encoder = sionna.crc.CRCEncoder(f"CRC{poly}", k=77)
    _, theirs = sionna.crc.CRCDecoder(encoder)(tensor(blocks))
    ours = crc.check(blocks, poly)
    assert np.array_equal(ours, theirs.numpy()[:, 0])
    assert 0 < ours.sum() < ours.size
