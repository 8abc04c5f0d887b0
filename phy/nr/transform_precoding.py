"""Transform precoding (DFT spreading) of PUSCH.

Spec: TS 38.211 6.3.1.4
"""

from __future__ import annotations

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_integer


def is_allowed(n_prb: int) -> bool:
    """Returns whether PUSCH with transform precoding may be this wide: 2^a 3^b 5^c PRBs.

    Spec: TS 38.211 6.3.1.4
    """
    if n_prb < 1:
        return False
    for factor in (2, 3, 5):
        while n_prb % factor == 0:
            n_prb //= factor
    return n_prb == 1


def spread(symbols: Array, n_subcarriers: int) -> Array:
    """Replaces the symbols of every OFDM symbol by their spectrum.

    The DFT is scaled by 1 / sqrt(n_subcarriers), so power and noise keep their size.

    Args:
        symbols: complex64[..., n], whole OFDM symbols one after the other.
        n_subcarriers: M_sc^PUSCH, 12 times an allowed number of PRBs.

    Returns:
        complex64[..., n].

    Raises:
        InvalidInputError: no complex array, or wrong lengths.

    Spec: TS 38.211 6.3.1.4
    """
    blocks = _blocks(symbols, n_subcarriers)
    xp = array_module(symbols)
    spectrum = xp.fft.fft(blocks, axis=-1, norm="ortho")
    return spectrum.reshape(symbols.shape).astype(xp.complex64, copy=False)


def despread(symbols: Array, n_subcarriers: int) -> Array:
    """Undoes `spread`: complex64[..., n] subcarriers to complex64[..., n] symbols.

    Raises:
        InvalidInputError: no complex array, or wrong lengths.

    Spec: TS 38.211 6.3.1.4
    """
    blocks = _blocks(symbols, n_subcarriers)
    xp = array_module(symbols)
    signal = xp.fft.ifft(blocks, axis=-1, norm="ortho")
    return signal.reshape(symbols.shape).astype(xp.complex64, copy=False)


def _blocks(symbols: Array, n_subcarriers: int) -> Array:
    check_integer("n_subcarriers", n_subcarriers, 12, 12 * 275)
    if n_subcarriers % 12 or not is_allowed(n_subcarriers // 12):
        raise InvalidInputError(
            "n_subcarriers", f"must be 12 times 2^a 3^b 5^c PRBs, got {n_subcarriers}"
        )
    if getattr(getattr(symbols, "dtype", None), "kind", None) != "c":
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise InvalidInputError("symbols", f"must be an array of complex numbers, got {kind}")
    if symbols.ndim == 0 or symbols.shape[-1] % n_subcarriers:
        raise InvalidInputError(
            "symbols", f"must be whole OFDM symbols of {n_subcarriers}, got shape {symbols.shape}"
        )
    n_blocks = symbols.shape[-1] // n_subcarriers
    return symbols.reshape(*symbols.shape[:-1], n_blocks, n_subcarriers)
