"""The configuration of what shares a real GPU: Layer 1's side, and vLLM on the AI's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from airan.core.sections import Section

_GROUP_SMS = 8
"""What GPUs from compute capability 9.0 on can be divided in."""
GEARS = ("16+116", "24+108", "40+88", "64+64", "80+48", "96+32")
SLOT_LIMITS = (0.85, 0.75, 0.6)
"""Of a slot's budget: above the first the gear goes up, to the smallest below the second; down it
goes while every slot is expected below the third."""


class GpuConfig(Section):
    """How Layer 1 and the engine share a real GPU (`airan up --gpu`)."""

    layer1: Literal["cpu", "gpu"] = "cpu"
    """Where slots are decoded. `gpu`: all cells' slots, at the radio's pace, on this host's GPU;
    `airan up --gpu` sets it."""
    gears: tuple[str, ...] = GEARS
    """SMs of Layer 1's part and of the engine's in each gear, Layer 1's in eights and ascending.
    Memory is shared: an engine on fewer SMs than are left asks less of it, and slots are shorter
    beside it. Gears beyond the GPU's SMs are left out; all of its SMs for Layer 1, which lets the
    engine pause, are the last gear."""
    judged_by: Literal["latency", "gpu"] = "latency"
    """What of a slot the fast path holds against its budget. `latency`: from when the slot was due
    until the host has its results. `gpu`: its kernels on the GPU and what they waited for,
    as cuPHY states its budgets; copies and the host, which no gear shortens, may take 600 us more
    before a result counts as late."""
    slot_limits: tuple[float, float, float] = SLOT_LIMITS
    """Of a slot's budget. One that takes more than the first part moves the gear up, to the
    smallest in which it is expected below the second; down it moves while every slot is expected
    below the third. Higher ones leave the engine more SMs, and slots less to spare."""
    ran_memory_mib: int = Field(default=8_192, ge=512)
    """GPU memory that each of Layer 1's processes may have, for good: one works, one stands by, and
    one more outside of MPS for when the daemon dies, which MPS does not hold to it."""
    ai_memory_mib: int = Field(default=55_296, ge=512)
    """GPU memory that the engine may have, for good: its KV cache never takes Layer 1's."""
    ran_cores: int = Field(default=4, ge=0, le=1024)
    """The host's cores that Layer 1 has to itself: the site's other processes keep off them. 0, or
    a host with fewer than twice as many: none."""
    step_limit_us: float = Field(default=10_000.0, gt=0.0)
    """No step of the engine is to take longer, as far as decoding alone allows: a token for each
    sequence that runs is the least."""
    max_step_tokens: int = Field(default=8192, ge=1, le=65_535)
    """Tokens of one step of the engine at most."""
    mps_binary: str = Field(default="nvidia-cuda-mps-control", min_length=1)
    """Of the MPS daemon: a name on PATH, or a path."""

    @field_validator("gears")
    @classmethod
    def _ascend(cls, gears: tuple[str, ...]) -> tuple[str, ...]:
        pairs = [_pair(gear) for gear in gears]
        if not pairs or pairs != sorted(set(pairs)) or len({ran for ran, _ in pairs}) < len(pairs):
            raise ValueError("must ascend by Layer 1's SMs")
        return gears

    @field_validator("slot_limits")
    @classmethod
    def _descend(cls, limits: tuple[float, float, float]) -> tuple[float, float, float]:
        return check_slot_limits(limits)

    def gears_of(self, sm_count: int) -> tuple[tuple[int, int], ...]:
        """The gears of a GPU with so many SMs: Layer 1's, the engine's."""
        fitting = [(ran, ai) for ran, ai in map(_pair, self.gears) if ran < sm_count]
        return (*((ran, min(ai, sm_count - ran)) for ran, ai in fitting), (sm_count, 0))


def check_slot_limits(limits: tuple[float, float, float]) -> tuple[float, float, float]:
    """They themselves.

    Raises:
        ValueError: out of order.
    """
    raise_at, aim_at, lower_at = limits
    if not 0 < lower_at < aim_at <= raise_at <= 1:
        raise ValueError("must descend from at most 1, the last two not alike")
    return limits


def _pair(gear: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})\+(\d{1,4})", gear)
    if found is None:
        raise ValueError(f"{gear!r} must be Layer 1's and the engine's SMs, such as 96+32")
    ran_sms, ai_sms = int(found[1]), int(found[2])
    if ran_sms < 1 or ran_sms % _GROUP_SMS:
        raise ValueError(f"{gear}: Layer 1's SMs must be a multiple of {_GROUP_SMS}")
    return ran_sms, ai_sms


class VllmConfig(Section):
    """vLLM, installed in a Python environment of its own."""

    python: Path
    """That environment's Python."""
    path: Path
    """The model's folder, in Hugging Face's form."""
    args: tuple[str, ...] = ()
    """Further options of vLLM's server, e.g. `--gpu-memory-utilization=0.4`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the server."""
    start_timeout_s: float = Field(default=600.0, gt=0.0)
    between_leases: Literal["stay", "sleep", "stop"] = "stay"
    """What it does without a lease. `stay`: keeps the model in memory; on a real GPU divided by
    MIG, or not divided, where memory goes with the partition, it stops. `sleep`: gives the GPU's
    memory back within the notice; where that takes longer, or this vLLM cannot, it is stopped.
    `stop`."""
    sleep_level: Literal[1, 2] = 1
    """1: the weights wait in the host's memory. 2: they are read again from the disk."""
    max_adapters: int = Field(default=0, ge=0, le=64)
    """LoRA adapters of tenants that answers may be made with at once; 0: none, which costs no
    memory. With any, `sleep` between leases is `stop`."""
    max_adapter_rank: int = Field(default=16, ge=1, le=256)
