from __future__ import annotations

import os
import subprocess
import sys

from phy import jit

PROBE = """
import sys, time
started = time.process_time()
import phy
print(time.process_time() - started, "numba" in sys.modules, "cupy" in sys.modules)
"""


def test_importing_layer_1_is_quick_and_leaves_the_compiler_alone() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert all(run[1:] == ["False", "False"] for run in runs)
    assert min(float(run[0]) for run in runs) < 0.5


def test_a_package_that_cannot_be_written_caches_kernels_in_the_users_folder(
    monkeypatch, tmp_path
) -> None:
    probe = f"""
import os, sys
os.access = lambda *_: False
from phy.jit import kernels
kernels("phy.nr.ldpc_kernel")
import numba.core.config as config
assert config.CACHE_DIR.startswith({str(tmp_path)!r}), config.CACHE_DIR
"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_a_kernel_module_is_imported_once() -> None:
    assert jit.kernels("phy.nr.ldpc_kernel") is jit.kernels("phy.nr.ldpc_kernel")


_CALLER = """
from numba import njit
from made_up.inner_kernel import answer

@njit(cache=True)
def ask():
    return answer()
"""
_INNER = """
from numba import njit

@njit(cache=True)
def answer():
    return {}
"""
_ASK = "from phy.jit import kernels; print(kernels('made_up.outer_kernel').ask())"


def test_a_kernel_that_another_file_calls_is_compiled_again_once_it_has_changed(
    monkeypatch, tmp_path
) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "outer_kernel.py").write_text(_CALLER)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def asked(answer: int) -> str:
        (package / "inner_kernel.py").write_text(_INNER.format(answer))
        return subprocess.run(
            [sys.executable, "-c", _ASK], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert asked(1) == "1"
    assert list(package.rglob("outer_kernel*.nbi"))
    assert asked(2222) == "2222"
