"""Layer 1 on CuPy arrays gives what it gives on NumPy arrays, as CuPy arrays."""

from __future__ import annotations

import numpy as np
import pytest

from phy import (
    PdschConfig,
    PdschReceiver,
    PdschTransmitter,
    PuschConfig,
    PuschReceiver,
    PuschTransmitter,
    ReceiverOptions,
)
from phy.nr import crc, ldpc, modulation

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cp():
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no NVIDIA GPU")
    return cupy


def test_coding_and_modulation_agree(cp, rng) -> None:
    bits = rng.integers(0, 2, (3, 22 * 64), dtype=np.uint8)
    on_gpu = cp.asarray(bits)
    for poly in ("24A", "16"):
        assert cp.asnumpy(crc.append(on_gpu, poly)).tolist() == crc.append(bits, poly).tolist()
    coded = ldpc.encode(on_gpu, 1, 64)
    assert isinstance(coded, cp.ndarray)
    np.testing.assert_array_equal(cp.asnumpy(coded), ldpc.encode(bits, 1, 64))
    sent = ldpc.rate_match(coded, 2400, 0, 4, 1, 64, 0)
    symbols = modulation.map(sent, 4)
    for method in ("max_log", "exact"):
        llr = modulation.demap(symbols, 0.1, 4, method=method)
        assert isinstance(llr, cp.ndarray)
        expected = modulation.demap(cp.asnumpy(symbols), 0.1, 4, method=method)
        np.testing.assert_allclose(cp.asnumpy(llr), expected, rtol=1e-4, atol=1e-3)
    recovered = ldpc.rate_recover(llr, 2400, 0, 4, 1, 64, 0)
    found = ldpc.decode(recovered, 1, 64)
    np.testing.assert_array_equal(cp.asnumpy(found.bits), bits)


@pytest.mark.parametrize("equaliser", ["mmse", "mmse_irc", "zf"])
@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_pusch_agrees(cp, rng, equaliser, n_layers) -> None:
    config = PuschConfig(n_prb=24, mcs_index=12, n_layers=n_layers, n_rx=4)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    grid = PuschTransmitter(config)(tb)
    on_gpu = PuschTransmitter(config)(cp.asarray(tb))
    assert isinstance(on_gpu, cp.ndarray)
    np.testing.assert_allclose(cp.asnumpy(on_gpu), grid, atol=1e-5)
    mixing = np.linalg.qr(rng.standard_normal((4, n_layers)))[0].astype(np.complex64)
    noise = rng.standard_normal((2, 4, 14, grid.shape[-1])) * 0.05
    received = np.einsum("rp,ptk->rtk", mixing, grid) + noise[0] + 1j * noise[1]
    received = received.astype(np.complex64)
    receive = PuschReceiver(config, options=ReceiverOptions(equaliser=equaliser))
    expected, result = receive(received), receive(cp.asarray(received))
    assert isinstance(result.tb, cp.ndarray)
    assert result.crc_ok
    assert expected.crc_ok
    np.testing.assert_array_equal(cp.asnumpy(result.tb), tb)
    assert result.noise_var == pytest.approx(expected.noise_var, rel=1e-3)
    assert result.sinr_db == pytest.approx(expected.sinr_db, abs=0.05)


def test_transform_precoding_and_codebooks_agree(cp, rng) -> None:
    config = PuschConfig(n_prb=20, mcs_index=5, transform_precoding=True, n_ports=2, tpmi=2)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    grid = PuschTransmitter(config)(cp.asarray(tb))
    np.testing.assert_allclose(cp.asnumpy(grid), PuschTransmitter(config)(tb), atol=1e-5)
    noise = rng.standard_normal((2, *grid.shape)) * 0.05
    result = PuschReceiver(config)(grid + cp.asarray(noise[0] + 1j * noise[1]))
    assert result.crc_ok
    np.testing.assert_array_equal(cp.asnumpy(result.tb), tb)


def test_pdsch_agrees(cp, rng) -> None:
    config = PdschConfig(n_prb=24, mcs_table=2, mcs_index=20, n_layers=2, prg_size=4)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    grid = PdschTransmitter(config)(cp.asarray(tb))
    np.testing.assert_allclose(cp.asnumpy(grid), PdschTransmitter(config)(tb), atol=1e-5)
    noise = rng.standard_normal((2, *grid.shape)) * 0.01
    result = PdschReceiver(config)(grid + cp.asarray(noise[0] + 1j * noise[1]))
    assert result.crc_ok
    np.testing.assert_array_equal(cp.asnumpy(result.tb), tb)
