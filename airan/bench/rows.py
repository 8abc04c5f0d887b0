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
        value: our figure; None if there is none.
        unit: its unit.
        peer: whom it is compared with, with its version; None without a peer.
        peer_value: the peer's figure in the same unit.
        ratio: how many times as good as the peer's ours is: above 1 we are ahead.
        hardware: what it was measured on, and of how many runs it is the median, or in which
            simulation.
    """

    name: str
    value: float | None
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    hardware: str


def row(
    name: str,
    value: float | None,
    unit: str,
    hardware: str,
    peer: tuple[str, float | None] | None = None,
) -> Row:
    """Makes a row; `peer` is (name and version, value). Rates are better when higher, all else
    (times, memory, the SNR needed) when lower; the ratio of SNRs is that of the powers."""
    peer_name, peer_value = (None, None) if peer is None else peer
    ratio = None
    if value is not None and peer_value is not None:
        if unit == "dB":
            ratio = 10 ** ((peer_value - value) / 10)
        else:
            ratio = value / peer_value if unit.endswith("/s") else peer_value / value
    return Row(name, value, unit, peer_name, peer_value, ratio, hardware)


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
