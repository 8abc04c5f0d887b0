"""The configuration of what shares a real GPU: Layer 1's side, and vLLM on the AI's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class GpuConfig(BaseModel):
    """How Layer 1 and the engine share a real GPU (`airan up --gpu`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer1: Literal["cpu", "gpu"] = "cpu"
    """Where slots are decoded. `gpu`: all cells' slots, at the radio's pace, on this host's GPU;
    `airan up --gpu` sets it."""
    gears: tuple[int, ...] = (16, 32, 64, 96, 132)
    """SMs of Layer 1's part in each gear, ascending; the engine has what is left. Those beyond
    the GPU's SMs are left out, and all of its SMs are the last gear."""
    judged_by: Literal["latency", "gpu"] = "latency"
    """What of a slot the fast path holds against its budget. `latency`: from when the slot was due
    until the host has its results. `gpu`: its kernels on the GPU and what they waited for,
    as cuPHY states its budgets; copies and the host, which no gear shortens, may take 600 us more
    before a result counts as late."""
    ran_memory_mib: int = Field(default=12_288, ge=512)
    """GPU memory that Layer 1 may have, for good."""
    ai_memory_mib: int = Field(default=61_440, ge=512)
    """GPU memory that the engine may have, for good: its KV cache never takes Layer 1's."""
    step_limit_us: float = Field(default=10_000.0, gt=0.0)
    """No step of the engine is to take longer."""
    max_step_tokens: int = Field(default=8192, ge=1)
    """Tokens of one step of the engine at most."""
    mps_binary: str = Field(default="nvidia-cuda-mps-control", min_length=1)
    """Of the MPS daemon: a name on PATH, or a path."""

    @field_validator("gears")
    @classmethod
    def _ascend(cls, gears: tuple[int, ...]) -> tuple[int, ...]:
        if not gears or gears[0] < 1 or list(gears) != sorted(set(gears)):
            raise ValueError("must be positive and ascend")
        return gears

    def gears_of(self, sm_count: int) -> tuple[int, ...]:
        """The gears of a GPU with so many SMs."""
        return (*(sms for sms in self.gears if sms < sm_count), sm_count)


class VllmConfig(BaseModel):
    """vLLM, installed in a Python environment of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
