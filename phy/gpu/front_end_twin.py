"""NumPy twins of the front end's kernels, step for step; arrays are laid out as on the GPU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from phy.gpu.front_end_filters import WINDOW, tile_windows
from phy.gpu.front_end_layout import PAIRS, UE_RESULT
from phy.nr import layer_mapping, modulation
from phy.receiver.equaliser import equalise as separate

_LEAST_NOISE = np.float32(1e-12)


def _complex(pairs: npt.NDArray[np.floating]) -> npt.NDArray[np.complex64]:
    """float[..., 2] as complex64[...]."""
    parts = pairs.astype(np.float32)
    return parts[..., 0] + np.complex64(1j) * parts[..., 1]


def _pairs(values: npt.NDArray[np.complex64]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return np.stack([values.real, values.imag], axis=-1).astype(np.float16)


def allocation(ue: np.void, grid: npt.NDArray[np.float16]) -> npt.NDArray[np.complex64]:
    """Returns the UE's samples complex64[rx, 14, subcarrier] from float16[sample, 2]."""
    size = int(ue["n_rx"]) * 14 * int(ue["grid_width"])
    cell = grid[int(ue["grid_offset"]) :][:size].reshape(int(ue["n_rx"]), 14, -1, 2)
    first = int(ue["first_subcarrier"])
    return _complex(cell[:, :, first : first + int(ue["n_subcarriers"])])


def least_squares(
    ue: np.void, grid: npt.NDArray[np.float16], pilots: npt.NDArray[np.uint32], comb: int, sign: int
) -> npt.NDArray[np.complex64]:
    """Returns estimates complex64[rx, position, pilot], covers in frequency left in.

    `comb` is the CDM group's first subcarrier, `sign` the cover of a position's second symbol.
    """
    samples = allocation(ue, grid)[..., comb::2]
    length, n_positions = int(ue["dmrs_length"]), int(ue["n_positions"])
    n_pilots = samples.shape[-1]
    stride, offset = int(ue["pilot_stride"]), int(ue["pilot_offset"])
    words = pilots[offset : offset + n_positions * length * stride].reshape(-1, stride)
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    bits = bits[:, int(ue["pilot_first_bit"]) :][:, : 2 * n_pilots]
    signs = (1 - 2 * bits.astype(np.float32)).reshape(-1, n_pilots, 2)
    turn = signs[..., 0] - np.complex64(1j) * signs[..., 1]
    out = np.empty((samples.shape[0], n_positions, n_pilots), np.complex64)
    for position in range(n_positions):
        symbol = int(ue["dmrs_symbol"][position])
        total = samples[:, symbol] * turn[position * length]
        if length == 2:
            second = samples[:, symbol + 1] * turn[position * length + 1]
            total = total + np.float32(sign) * second
        out[:, position] = total * ue["pilot_scale"]
    return out


def channel_of(ue: np.void, channel: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Returns a UE's estimates float16[position, rx, subcarrier, layer, 2], a view of all UEs'."""
    n_layers = int(ue["n_layers"])
    stride = 4 if n_layers == 3 else n_layers
    shape = (int(ue["n_positions"]), int(ue["n_rx"]), int(ue["n_subcarriers"]), stride, 2)
    own = channel[int(ue["channel_offset"]) :][: int(np.prod(shape[:-1]))]
    return own.reshape(shape)[..., :n_layers, :]


def estimate(
    ue: np.void,
    grid: npt.NDArray[np.float16],
    pilots: npt.NDArray[np.uint32],
    taps: npt.NDArray[np.float16],
) -> tuple[npt.NDArray[np.float16], np.void]:
    """Twin of `estimate` and `finish_estimates` for one UE.

    Args:
        ue: its record.
        grid: float16[sample, 2] of all cells.
        pilots: packed pilots of all UEs.
        taps: float16[filter set, 64, 132, 2].

    Returns:
        float16[position, rx, subcarrier, layer, 2], and a UE_RESULT without the equaliser's part.
    """
    n_codes = int(ue["n_codes"])
    raw = np.stack(
        [
            least_squares(ue, grid, pilots, int(comb), int(sign))
            for comb, sign in zip(ue["code_comb"][:n_codes], ue["code_sign"], strict=False)
        ]
    )
    n_rx, n_positions = raw.shape[1:3]
    n_subcarriers = int(ue["n_subcarriers"])
    channel = np.zeros((n_positions, n_rx, int(ue["n_layers"]), n_subcarriers), np.complex64)
    residual = 0.0
    for code in range(n_codes):
        weights = _complex(taps[int(ue["code_filter"][code])])
        comb = int(ue["code_comb"][code])
        even_layer, odd_layer = (int(layer) for layer in ue["code_layer"][code])
        for first, count, pilot0 in tile_windows(n_subcarriers):
            window = raw[code, ..., pilot0 : pilot0 + WINDOW]
            column = first - 2 * pilot0 + 1 - comb
            own = weights[: window.shape[-1], column : column + count]
            even = window[..., 0::2] @ own[0::2]
            odd = window[..., 1::2] @ own[1::2]
            rebuilt = np.zeros_like(even)
            alternating = 1 - 2 * ((np.arange(count) // 2) % 2).astype(np.float32)
            if even_layer >= 0:
                _put(channel, even_layer, first, even + odd)
                rebuilt = rebuilt + even + odd
            if odd_layer >= 0:
                _put(channel, odd_layer, first, even - odd)
                rebuilt = rebuilt + alternating * (even - odd)
            seen = raw[code, ..., first // 2 : (first + count) // 2]
            residual += float((np.abs(seen - rebuilt[..., comb::2]) ** 2).sum(dtype=np.float64))
    return _pairs(channel.swapaxes(2, 3)), _result(ue, channel, residual / raw.size)


def _put(
    channel: npt.NDArray[np.complex64], layer: int, first: int, found: npt.NDArray[np.complex64]
) -> None:
    """Stores complex64[rx, position, subcarrier] of one tile."""
    channel[:, :, layer, first : first + found.shape[-1]] = found.swapaxes(0, 1)


def _result(ue: np.void, channel: npt.NDArray[np.complex64], residual: float) -> np.void:
    result: np.void = np.zeros(1, UE_RESULT)[0]
    n_positions = channel.shape[0]
    result["position_power"][:n_positions] = (np.abs(channel) ** 2).mean(axis=(1, 2, 3))
    for index, (one, other) in enumerate(PAIRS):
        if other < n_positions:
            product = (channel[one].conj() * channel[other]).mean()
            result["product"][index] = product.real, product.imag
    parts = ue["residual_part"][: int(ue["n_codes"])]
    measured = np.float32(residual * ue["estimate_gain"] / parts.mean())
    result["measured_noise_var"] = measured
    noise_var = measured if ue["noise_var"] < 0 else ue["noise_var"]
    result["is_bad"] = not np.isfinite(measured)
    result["noise_var"] = 1e30 if result["is_bad"] else max(noise_var, _LEAST_NOISE)
    return result


def whiten(
    ue: np.void,
    grid: npt.NDArray[np.float16],
    pilots: npt.NDArray[np.uint32],
    channel: npt.NDArray[np.float16],
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.complex64], npt.NDArray[np.float32]]:
    """Twin of `whiten_*` for one UE.

    Args:
        ue: its record.
        grid: float16[sample, 2] of all cells.
        pilots: packed pilots of all UEs.
        channel: float16[position, rx, subcarrier, layer, 2], its estimates.

    Returns:
        The estimates whitened, complex64[subband, rx, rx], the whitening matrices, and
        float32[subband], 1 / noise after them.
    """
    residuals = _residuals(ue, grid, pilots, _complex(channel))
    n_rx = int(ue["n_rx"])
    whitened = np.empty_like(channel)
    matrices, inverse_noise = [], []
    bounds = subband_bounds(int(ue["n_subcarriers"]))
    for first, last in pairwise(bounds):
        part = residuals[..., first:last].swapaxes(0, 1).reshape(n_rx, -1)
        n_samples = part.shape[1]
        covariance = part @ part.conj().T
        noise = max(np.trace(covariance).real / (n_rx * n_samples), _LEAST_NOISE)
        covariance = covariance / (noise * n_samples) + np.float32(n_rx / n_samples) * np.eye(n_rx)
        matrix = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.complex64)
        own = np.s_[:, :, 2 * first : 2 * last]
        whitened[own] = _pairs(np.einsum("ij,pjsl->pisl", matrix, _complex(channel[own])))
        matrices.append(matrix)
        inverse_noise.append(1 / noise)
    return whitened, np.stack(matrices), np.asarray(inverse_noise, np.float32)


def subband_bounds(n_subcarriers: int) -> list[int]:
    """First pilot of each subband, and the end of the last."""
    n_subbands = max(1, n_subcarriers // 96)
    return [subband * (n_subcarriers // 2) // n_subbands for subband in range(n_subbands + 1)]


def _residuals(
    ue: np.void,
    grid: npt.NDArray[np.float16],
    pilots: npt.NDArray[np.uint32],
    channel: npt.NDArray[np.complex64],
) -> npt.NDArray[np.complex64]:
    """What the estimates leave unexplained, as strong as the noise on a resource element:
    complex64[source, rx, position, pilot]. A source is a code in use, or a CDM group that carries
    neither data nor DM-RS of this UE."""
    n_codes = int(ue["n_codes"])
    combs = ue["code_comb"][:n_codes].tolist()
    alternating = 1 - 2 * (np.arange(int(ue["n_subcarriers"]) // 2) % 2).astype(np.float32)
    out = []
    for code, comb in enumerate(combs):
        residual = least_squares(ue, grid, pilots, comb, int(ue["code_sign"][code]))
        for cover, layer in enumerate(ue["code_layer"][code]):
            if layer >= 0:
                seen = channel[:, :, comb::2, layer].swapaxes(0, 1)
                residual = residual - (alternating if cover else np.float32(1)) * seen
        out.append(residual * np.sqrt(ue["estimate_gain"] / ue["residual_part"][code]))
    for comb in range(int(ue["n_groups_without_data"])):
        if comb not in combs:
            out.append(least_squares(ue, grid, pilots, comb, 1) * np.sqrt(ue["estimate_gain"]))
    return np.stack(out)


def equalise(
    ue: np.void,
    grid: npt.NDArray[np.float16],
    channel: npt.NDArray[np.float16],
    scrambling: npt.NDArray[np.uint32],
    result: np.void,
    whitening: tuple[npt.NDArray[np.complex64], npt.NDArray[np.float32]] | None = None,
) -> npt.NDArray[np.int8]:
    """Twin of `equalise_*` and `finish_equaliser` for one UE.

    Args:
        ue: its record.
        grid: float16[sample, 2] of all cells.
        channel: float16[position, rx, subcarrier, layer, 2], its estimates, whitened if it asks.
        scrambling: packed sequences of all UEs.
        result: of `estimate`; the equaliser's part is filled in.
        whitening: matrices and 1 / noise of `whiten`, if the UE asks for it.

    Returns:
        int8[coded bit], LLRs times the UE's scale.
    """
    samples = allocation(ue, grid)
    estimates = _complex(channel)
    n_subcarriers = samples.shape[-1]
    inverse_noise = np.full(n_subcarriers, 1 / result["noise_var"], np.float32)
    if whitening is not None:
        bounds = 2 * np.asarray(subband_bounds(n_subcarriers))
        subband = np.searchsorted(bounds, np.arange(n_subcarriers), side="right") - 1
        samples = np.einsum("sij,jts->its", whitening[0][subband], samples)
        inverse_noise = whitening[1][subband]
    scale = np.sqrt(inverse_noise)
    symbols, noise = [], []
    for index in range(int(ue["n_data_symbols"])):
        symbol, step = int(ue["data_symbol"][index]), int(ue["data_step"][index])
        own = slice(step - 1, None, step)
        parts = ue["time_weights"][symbol, : estimates.shape[0]]
        weights = parts[:, 0] + np.complex64(1j) * parts[:, 1]
        h = np.einsum("p,prsl->rls", weights, estimates)[..., own] * scale[own]
        with np.errstate(invalid="ignore", over="ignore"):
            found = separate(samples[:, symbol, own] * scale[own], h)
        symbols.append(found[0])
        noise.append(found[1])
    return _soft_bits(ue, np.hstack(symbols), np.hstack(noise), scrambling, result)


def _soft_bits(
    ue: np.void,
    symbols: npt.NDArray[np.complex64],
    noise: npt.NDArray[np.float32],
    scrambling: npt.NDArray[np.uint32],
    result: np.void,
) -> npt.NDArray[np.int8]:
    """complex64[layer, n] symbols and their noise to int8[coded bit]; a resource element with
    anything that is not finite gives zeros."""
    is_good = np.isfinite(np.abs(symbols).sum(axis=0) + noise.sum(axis=0))
    result["is_bad"] |= not is_good.all()
    result["symbol_noise_var"] = np.where(is_good, noise, 0).mean(dtype=np.float64)
    capacity = np.log2(1 + 1 / np.maximum(noise, np.float32(1e-10)))
    result["capacity"] = np.where(is_good, capacity, 0).mean(dtype=np.float64)
    symbols = np.where(is_good, symbols, 0)
    noise = np.where(is_good, noise, np.float32(1e10))
    llr = modulation.demap(
        layer_mapping.unmap(symbols), layer_mapping.unmap(noise), int(ue["modulation_order"])
    )
    first = int(ue["scrambling_offset"])
    words = np.ascontiguousarray(scrambling[first : first + -(-llr.size // 32)])
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: llr.size]
    llr = llr * (1 - 2 * bits.astype(np.float32)) * ue["llr_scale"]
    soft_bits: npt.NDArray[np.int8] = np.clip(np.rint(llr), -127, 127).astype(np.int8)
    return soft_bits
