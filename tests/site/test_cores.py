"""Layer 1 on a GPU has some of the host's cores to itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from airan.core.config import SiteConfig
from airan.site import cores
from airan.site.cores import cores_of, keep_to_cores


def on_gpu(ran_cores: int) -> SiteConfig:
    return SiteConfig.model_validate({"gpu": {"layer1": "gpu", "ran_cores": ran_cores}})


def test_layer1_has_the_first_cores_and_all_others_the_rest() -> None:
    config, host = on_gpu(4), list(range(16))
    assert cores_of(config, "l1", host) == [0, 1, 2, 3]
    for service in ("engine", "gateway", "control", "mps", "dashboard"):
        assert cores_of(config, service, host) == list(range(4, 16))


@pytest.mark.parametrize(
    ("config", "n_cores"), [(on_gpu(4), 7), (on_gpu(0), 16), (SiteConfig(), 16)]
)
def test_a_small_host_or_a_site_on_the_cpu_is_not_divided(config: SiteConfig, n_cores: int) -> None:
    for service in ("l1", "engine"):
        assert cores_of(config, service, range(n_cores)) is None


def test_a_process_and_what_it_starts_keep_to_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        pytest.skip("one core cannot be divided")
    asking = "import os, sys; sys.stdin.read(); print(sorted(os.sched_getaffinity(0)))"
    shell = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {asking!r}])"
    for service, expected in (("l1", mine[:1]), ("engine", mine[1:])):
        with subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.stdin.read(1); {shell}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            keep_to_cores(on_gpu(1), service, process.pid)
            said, _ = process.communicate("go")
        assert said.strip() == str(expected)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def is_gone(pid: int, _: object) -> None:
        raise ProcessLookupError(pid)

    monkeypatch.setattr(cores.os, "sched_setaffinity", is_gone)
    keep_to_cores(on_gpu(1), "l1", ended.pid)
