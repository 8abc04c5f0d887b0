"""The four kinds of partition: what each isolates, how finely it divides, how fast it changes.

Figures were measured on one NVIDIA H100 80GB (driver 580.159) where `measured` says so; the rest
is NVIDIA's documentation or this project's assumption, and named so.
"""

from __future__ import annotations

from dataclasses import dataclass

from airan.core.errors import NotFoundError


@dataclass(frozen=True)
class PartitionKind:
    """One way to give a part of a GPU to somebody."""

    name: str
    isolates: str
    """What the neighbours cannot touch."""
    shared: str
    """What they can."""
    granularity: str
    change_ms: float
    """Time to change the division, the holder's notice not counted."""
    change_source: str
    """Where `change_ms` comes from: measured, published or assumed."""
    interrupts: str
    """Who must stop for a change."""


KINDS = (
    PartitionKind(
        name="whole",
        isolates="everything: SMs, memory, bandwidth, caches, faults",
        shared="nothing on the GPU; the host's PCIe and power",
        granularity="one GPU",
        change_ms=0.0,
        change_source="stated: no driver call, only processes move",
        interrupts="the processes on the GPU",
    ),
    PartitionKind(
        name="mig",
        isolates="SMs, memory, L2 cache, memory bandwidth, faults",
        shared="PCIe, power and clocks",
        granularity="7 compute and 8 memory slices, at NVIDIA's placements",
        change_ms=400.0,
        change_source="assumed: 250 ms to create and 150 ms to destroy an instance (settings"
        " node.mig_create_ms and node.mig_destroy_ms)",
        interrupts="the processes on the instances changed; the others run on",
    ),
    PartitionKind(
        name="mps",
        isolates="a limit on each process's SMs and memory",
        shared="L2 cache, memory bandwidth, and faults: one client's can end all",
        granularity="percent of SMs",
        change_ms=490.0,
        change_source="measured: a client's share is fixed at its start, so that the quickest"
        " change is waking another worker (vLLM wake from sleep level 1)",
        interrupts="the process whose share changes",
    ),
    PartitionKind(
        name="green",
        isolates="SMs, within one process",
        shared="memory, L2 cache, bandwidth, faults",
        granularity="8 SMs",
        change_ms=10.5,
        change_source="measured: 1.3-2.5 ms to create the context and 4-8 ms to capture its CUDA"
        " graph; the worst of both",
        interrupts="nobody: the next slot or step runs in the new context",
    ),
)


def kind_of(name: str) -> PartitionKind:
    """The kind with that name.

    Raises:
        NotFoundError: there is none.
    """
    for kind in KINDS:
        if kind.name == name:
            return kind
    listed = ", ".join(kind.name for kind in KINDS)
    raise NotFoundError(f"there is no partition kind {name!r}", remedy=f"the kinds are {listed}")
