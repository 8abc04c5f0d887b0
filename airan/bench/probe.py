"""Measures a fresh process from inside: `python -m airan.bench.probe WHAT GRID` prints one number.

import        seconds that `import phy` takes
import-peer   the same of what Sionna needs for PUSCH
first-call    seconds of the first received slot after the import
memory        MiB that importing phy and receiving the slot add to a process, at their peak
memory-peer   the same of Sionna

GRID is a file with the received slot, made by another process: making it needs memory too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def main(what: str, grid_file: str) -> float:
    """Returns the number that `what` asks for."""
    if what == "import":
        return _seconds_to_import()
    if what == "import-peer":
        return _seconds_to_import_peer()
    grid = np.load(grid_file)
    before = _resident_mib("VmRSS")
    _CLEAR_REFS.write_text("5")  # sets the peak back to the present
    seconds = _receive_with_peer(grid) if what == "memory-peer" else _receive(grid)
    return seconds if what == "first-call" else _resident_mib("VmHWM") - before


def _seconds_to_import() -> float:
    started = perf_counter()
    import phy

    assert phy.PuschReceiver is not None
    return perf_counter() - started


def _seconds_to_import_peer() -> float:
    from airan.bench import sionna_peer

    started = perf_counter()
    sionna_peer.use_threads(1)
    return perf_counter() - started


def _receive(grid: np.ndarray[tuple[int, ...], np.dtype[np.complex64]]) -> float:
    from airan.bench.slots import WHOLE_CARRIER
    from phy import PuschReceiver

    started = perf_counter()
    result = PuschReceiver(WHOLE_CARRIER)(grid)
    seconds = perf_counter() - started
    if not result.crc_ok:
        raise RuntimeError("the slot was not decoded")
    return seconds


def _receive_with_peer(grid: np.ndarray[tuple[int, ...], np.dtype[np.complex64]]) -> float:
    from airan.bench.sionna_peer import PuschPeer
    from airan.bench.slots import WHOLE_CARRIER

    started = perf_counter()
    PuschPeer(WHOLE_CARRIER).receive(grid[None], 1e-4)
    return perf_counter() - started


def _resident_mib(field: str) -> float:
    for line in _STATUS.read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
