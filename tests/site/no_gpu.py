"""For what a host without a GPU is refused."""

from __future__ import annotations

import pytest

from airan.core.errors import ConfigError
from airan.site.gpu_host import this_host


def skip_where_there_is_a_gpu() -> None:
    """The test is of a host that has none."""
    try:
        this_host().gpus()
    except ConfigError:
        return
    pytest.skip("this host has a GPU")
