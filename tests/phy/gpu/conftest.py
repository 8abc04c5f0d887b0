from __future__ import annotations

import pytest

from phy.gpu.module import GpuUnavailableError, require_cupy


@pytest.fixture(scope="session")
def cp():
    try:
        return require_cupy()
    except GpuUnavailableError as error:
        pytest.skip(str(error))
