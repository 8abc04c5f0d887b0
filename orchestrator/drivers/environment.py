"""What a process is started with to compute on a partition, and on nothing else. Pure.

On a GPU divided by MPS or green contexts both sides are clients of one MPS daemon, so that they run
at once; the RAN's work is scheduled first (CUDA_MPS_CLIENT_PRIORITY), and each side's memory has
a limit for good. An `mps` part is a percentage of the SMs, fixed at the process's start; a `green`
one is cut within the process, which sees all SMs.

NVIDIA, Multi-Process Service: CUDA_MPS_CLIENT_PRIORITY (0 normal, 1 below normal),
CUDA_MPS_PINNED_DEVICE_MEM_LIMIT, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, CUDA_MPS_PIPE_DIRECTORY.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airan.core.errors import ConfigError
from orchestrator.drivers.mps import MpsFolders, MpsShare


@dataclass(frozen=True)
class Side:
    """One side of a GPU: who computes, and what of the memory it may have."""

    role: str
    """`ran` or `ai`."""
    memory_mib: int | None = None
    """None: no limit but the partition's own."""


@dataclass(frozen=True)
class PartOf:
    """A partition as its holder knows it from its lease."""

    id: str
    gpu_uuid: str
    profile: str
    sm_count: int

    @property
    def kind(self) -> str:
        """`whole`, `mig`, `mps` or `green`."""
        first = self.profile.partition(".")[0]
        return first if first in ("whole", "mps", "green") else "mig"


def environment(
    part: PartOf, side: Side, total_sms: int, folders: MpsFolders | None
) -> dict[str, str]:
    """The variables for a process on `part`; `total_sms` are the GPU's, `folders` the daemon's.

    Raises:
        ConfigError: the part needs an MPS daemon, and there is none.
    """
    if part.kind == "mig":
        return {"CUDA_VISIBLE_DEVICES": part.id}
    visible = {"CUDA_VISIBLE_DEVICES": part.gpu_uuid}
    if part.kind == "whole":
        return visible
    if folders is None:
        raise ConfigError(
            f"{part.profile} of {part.gpu_uuid} needs an MPS daemon, and the site runs none",
            remedy="start the site with `airan up --gpu`, or set node.partition to whole",
        )
    percent = 100.0 * part.sm_count / total_sms if part.kind == "mps" else None
    return visible | client(side, folders, percent)


def client(side: Side, folders: MpsFolders, sm_percent: float | None = None) -> dict[str, str]:
    """The variables for one side's client of the daemon, which sees one GPU."""
    share = MpsShare(sm_percent, side.memory_mib, is_lower=side.role == "ai")
    return folders.variables() | share.variables()


def folders_in(state_dir: Path) -> MpsFolders:
    """Where a site's daemon has its pipes and logs."""
    return MpsFolders(state_dir / "mps" / "pipe", state_dir / "mps" / "log")
