"""NumPy twins of the front end's kernels, step for step; arrays are laid out as on the GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phy.gpu.front_end_filters import WINDOW, tile_windows
from phy.gpu.front_end_layout import PAIRS, UE_RESULT

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
    ue: np.void, grid: npt.NDArray[np.float16], pilots: npt.NDArray[np.uint32]
) -> npt.NDArray[np.complex64]:
    """Returns estimates complex64[code, rx, position, pilot], covers in frequency left in."""
    samples = allocation(ue, grid)
    length, n_positions = int(ue["dmrs_length"]), int(ue["n_positions"])
    n_pilots = int(ue["n_subcarriers"]) // 2
    stride, offset = int(ue["pilot_stride"]), int(ue["pilot_offset"])
    words = pilots[offset : offset + n_positions * length * stride].reshape(-1, stride)
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    signs = (1 - 2 * bits[:, : 2 * n_pilots].astype(np.float32)).reshape(-1, n_pilots, 2)
    turn = signs[..., 0] - np.complex64(1j) * signs[..., 1]
    out = []
    for code in range(int(ue["n_codes"])):
        by_position = []
        for position in range(n_positions):
            symbol = int(ue["dmrs_symbol"][position])
            comb = samples[..., int(ue["code_comb"][code]) :: 2]
            total = comb[:, symbol] * turn[position * length]
            if length == 2:
                second = comb[:, symbol + 1] * turn[position * length + 1]
                total = total + np.float32(ue["code_sign"][code]) * second
            by_position.append(total * ue["pilot_scale"])
        out.append(np.stack(by_position, axis=1))
    return np.stack(out).astype(np.complex64)


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
    raw = least_squares(ue, grid, pilots)
    n_codes, n_rx, n_positions = raw.shape[:3]
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
