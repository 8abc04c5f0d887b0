from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import layer_mapping


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_symbols_are_dealt_out_as_the_table_says(n_layers) -> None:
    d = (np.arange(24) + 1j).astype(np.complex64)
    x = layer_mapping.map(d, n_layers)
    assert x.dtype == np.complex64
    assert x.shape == (n_layers, 24 // n_layers)
    for layer in range(n_layers):
        for i in range(24 // n_layers):
            assert x[layer, i] == d[n_layers * i + layer]


@given(
    n_layers=st.integers(1, 4),
    n=st.integers(0, 20),
    batch=st.lists(st.integers(1, 3), max_size=2),
)
def test_unmap_undoes_map_for_every_batch(n_layers, n, batch) -> None:
    size = n_layers * n * int(np.prod(batch))
    d = np.arange(size, dtype=np.complex64).reshape(*batch, n_layers * n)
    x = layer_mapping.map(d, n_layers)
    assert x.shape == (*batch, n_layers, n)
    np.testing.assert_array_equal(layer_mapping.unmap(x), d)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: layer_mapping.map(np.zeros(8, np.complex64), 5), "n_layers"),
        (lambda: layer_mapping.map(np.zeros(8, np.complex64), 0), "n_layers"),
        (lambda: layer_mapping.map(np.zeros(8, np.complex64), 3), "symbols"),
        (lambda: layer_mapping.map(1j, 1), "symbols"),
        (lambda: layer_mapping.unmap(np.zeros(8, np.complex64)), "layers"),
        (lambda: layer_mapping.unmap(np.zeros((5, 8), np.complex64)), "n_layers"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
