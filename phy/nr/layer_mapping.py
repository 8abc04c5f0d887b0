"""Layer mapping of one code word onto one to four layers.

Spec: TS 38.211 6.3.1.3 (PUSCH), 7.3.1.3 (PDSCH)
"""

from __future__ import annotations

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_integer

MAX_LAYERS = 4
"""Most layers of a transmission with one code word."""


def map(symbols: Array, n_layers: int) -> Array:
    """Deals a code word's symbols out to the layers in turn: x^(layer)(i) = d(n_layers i + layer).

    Args:
        symbols: complex[..., n], n a multiple of `n_layers`.
        n_layers: 1 to 4.

    Returns:
        The same dtype, [..., layer, n / n_layers], contiguous.

    Raises:
        InvalidInputError: a wrong number of layers, no axis, or a length that does not divide.

    Spec: TS 38.211 tables 6.3.1.3-1 and 7.3.1.3-1
    """
    check_integer("n_layers", n_layers, 1, MAX_LAYERS)
    if getattr(symbols, "ndim", 0) == 0:
        raise InvalidInputError("symbols", "must be an array with at least one axis")
    if symbols.shape[-1] % n_layers:
        raise InvalidInputError(
            "symbols", f"must be a multiple of {n_layers} long, got {symbols.shape[-1]}"
        )
    dealt = symbols.reshape(*symbols.shape[:-1], symbols.shape[-1] // n_layers, n_layers)
    return array_module(symbols).ascontiguousarray(dealt.swapaxes(-1, -2))


def unmap(layers: Array) -> Array:
    """Gathers the layers' symbols (or any value that each has) back into the code word's order.

    Args:
        layers: [..., layer, n], 1 to 4 layers, of any dtype.

    Returns:
        The same dtype, [..., layer * n], contiguous; `map` undone.

    Raises:
        InvalidInputError: fewer than two axes, or more than 4 layers.

    Spec: TS 38.211 tables 6.3.1.3-1 and 7.3.1.3-1
    """
    if getattr(layers, "ndim", 0) < 2:
        raise InvalidInputError("layers", "must be an array with a layer and a symbol axis")
    check_integer("n_layers", layers.shape[-2], 1, MAX_LAYERS)
    gathered = array_module(layers).ascontiguousarray(layers.swapaxes(-1, -2))
    return gathered.reshape(*layers.shape[:-2], layers.shape[-2] * layers.shape[-1])
