"""The front end's kernels against their twins, on a GPU."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("is_irc", [False, True])
def test_kernels_agree_with_their_twins_on_a_gpu(is_irc: bool) -> None:
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no NVIDIA GPU")
    from phy.gpu import bench_front

    for seed in (1, 2):
        assert bench_front.check(seed, is_irc) == []
