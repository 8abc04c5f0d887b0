"""Layer 1 against Sionna, block by block. Skipped where the extra `oracle` is not installed.

Sionna (2.2, Apache-2.0) is independent of this code but for the base graphs' file, which
tests/phy checks against the spec. Its LLRs are log P(1)/P(0): their sign is opposite to ours.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = find_spec("sionna") is None or find_spec("torch") is None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.oracle)
            if missing:
                item.add_marker(pytest.mark.skip(reason="Sionna is not installed"))


@pytest.fixture(scope="session", autouse=True)
def sionna() -> SimpleNamespace:
    """Sionna's packages; imported here, because that takes seconds."""
    import torch

    # Its threads wait by turning in circles, which is slow where the cores have other work too.
    torch.set_num_threads(1)
    from sionna.phy import fec, mapping, nr
    from sionna.phy.fec import crc, ldpc, scrambling

    return SimpleNamespace(
        fec=fec, mapping=mapping, nr=nr, crc=crc, ldpc=ldpc, scrambling=scrambling
    )


@pytest.fixture(scope="session")
def tensor(sionna) -> Callable[[Any], Any]:
    """A NumPy array as torch.float32 (torch.complex64 if it is complex)."""
    import torch

    def tensor(array: np.ndarray) -> Any:
        kind = np.complex64 if np.iscomplexobj(array) else np.float32
        return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))

    return tensor


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240601)
