"""The rows every bench reports."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured value.

    Attributes:
        name: what was measured.
        value: our figure.
        unit: its unit.
        peer: whom it is compared with, with its version; None without a peer.
        peer_value: the peer's figure in the same unit.
        ratio: how many times as good as the peer's ours is: above 1 we are ahead.
        hardware: what it was measured on, and of how many runs it is the median.
    """

    name: str
    value: float
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    hardware: str


def row(
    name: str,
    value: float,
    unit: str,
    hardware: str,
    peer: tuple[str, float] | None = None,
) -> Row:
    """Makes a row; `peer` is (name and version, value). Rates are better when higher, all else
    (times, memory) when lower."""
    if peer is None:
        return Row(name, value, unit, None, None, None, hardware)
    peer_name, peer_value = peer
    ahead = value / peer_value if unit.endswith("/s") else peer_value / value
    return Row(name, value, unit, peer_name, peer_value, ahead, hardware)


def hardware() -> str:
    """The processor and how many of its cores this process may use."""
    n_cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {n_cores} core{'s' if n_cores > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
