"""`airan up --gpu`: what the host must have, looked at before anything is started."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airan.core.config import SiteConfig
from airan.core.errors import ConfigError, InvalidInputError
from airan.site.cell_sizing import measured_sizing
from orchestrator.drivers.base import GpuInfo
from orchestrator.drivers.environment import folders_in
from orchestrator.drivers.mps import check_folder
from orchestrator.service import this_hosts_gpus

LAYER1_MODULES = {"cupy": "cupy-cuda12x", "cuda.bindings": "cuda-bindings"}
"""What Layer 1's kernels need, by the package that has it."""
_PYTHON_S = 60.0


@dataclass(frozen=True)
class Host:
    """How the host is looked at; tests give answers of their own."""

    gpus: Callable[[], tuple[GpuInfo, ...]]
    """By NVML; raises ConfigError where there is none."""
    free_mib: Callable[[str], int]
    """GPU memory that nobody has, by the GPU's UUID."""
    has_module: Callable[[str], bool]
    """In this Python."""
    has_vllm: Callable[[Path], bool]
    """In that Python."""


def this_host() -> Host:
    """The machine that this runs on."""
    return Host(_gpus, _free_mib, _has_module, _has_vllm)


def on_gpu(config: SiteConfig, host: Host | None = None) -> SiteConfig:
    """The configuration of `airan up --gpu`: the host's GPU, shared by green contexts unless
    `node.partition` is `mps`, Layer 1 on it at the radio's pace, and vLLM in gears beside it.

    Raises:
        ConfigError: something is missing; what, and what to do about it.
    """
    host = host or this_host()
    gpu = _the_gpu(host)
    partition = "mps" if config.node.partition == "mps" else "green"
    node = {"driver": "nvml", "gpu": gpu.name, "n_gpus": 1, "partition": partition, "cluster": ""}
    changed = config.model_copy(
        update={
            "node": config.node.model_copy(update=node),
            "gpu": config.gpu.model_copy(update={"layer1": "gpu"}),
            "ran": config.ran.model_copy(update={"slot_slowdown": 1.0, "sizing": "measured"}),
        }
    )
    measured_sizing(changed)
    _check_mps(changed)
    for module, package in LAYER1_MODULES.items():
        if not host.has_module(module):
            raise ConfigError(
                f"Layer 1 on the GPU needs {module}, which this Python does not have",
                remedy=f"install airan[gpu], or {package} itself",
            )
    _check_vllm(changed, host)
    _check_memory(changed, gpu, host)
    return changed


def _the_gpu(host: Host) -> GpuInfo:
    try:
        found = host.gpus()
    except ConfigError as error:
        raise ConfigError(
            f"--gpu: {error.message}",
            remedy="install NVIDIA's driver, or start the site without --gpu",
        ) from error
    if len(found) != 1:
        raise ConfigError(
            f"--gpu runs a site on one GPU, and this host has {len(found)}",
            remedy="give the machine one GPU, or start the site without --gpu",
        )
    (gpu,) = found
    if gpu.lost:
        raise ConfigError(f"GPU {gpu.uuid} has fallen off the bus", remedy="reset or replace it")
    if gpu.mig_mode == "enabled":
        raise ConfigError(
            f"MIG mode is on ({gpu.name}), and --gpu moves the border by green contexts",
            remedy="an administrator switches it off: nvidia-smi -mig 0; or set node.driver to nvml"
            " without --gpu, which divides the GPU by MIG and leaves Layer 1 on the CPU",
        )
    return gpu


def _check_mps(config: SiteConfig) -> None:
    if shutil.which(config.gpu.mps_binary) is None:
        raise ConfigError(
            f"{config.gpu.mps_binary} is not on this host: without MPS Layer 1 and the engine"
            " would take turns on the GPU",
            remedy="install the driver's MPS control, or name it by gpu.mps_binary",
        )
    try:
        check_folder(folders_in(config.state_dir).pipe_dir.parent)
    except InvalidInputError as error:
        raise ConfigError(f"state_dir: {error.message}", remedy=error.remedy) from error


def _check_vllm(config: SiteConfig, host: Host) -> None:
    vllm = config.model.vllm
    if vllm is None:
        raise ConfigError(
            "--gpu needs an engine that runs on a GPU, and model.vllm is not set",
            remedy="set model.vllm.python and model.vllm.path (see docs/marketplace-engines.md)",
        )
    python = vllm.python.expanduser().absolute()
    if not host.has_vllm(python):
        raise ConfigError(
            f"model.vllm.python: {python} has no vLLM",
            remedy="install vllm in its environment, or name another",
        )


def _check_memory(config: SiteConfig, gpu: GpuInfo, host: Host) -> None:
    # Three processes of Layer 1: one works, one stands by, and one outside of MPS.
    wanted = 3 * config.gpu.ran_memory_mib + config.gpu.ai_memory_mib
    for have, what in ((gpu.memory_mib, "has"), (host.free_mib(gpu.uuid), "has free")):
        if wanted > have:
            raise ConfigError(
                f"three times gpu.ran_memory_mib, and gpu.ai_memory_mib, are {wanted} MiB, and the"
                f" GPU {what} {have} MiB",
                remedy="lower them, or end what else uses the GPU (see nvidia-smi)",
            )


def _gpus() -> tuple[GpuInfo, ...]:
    async def look() -> tuple[GpuInfo, ...]:
        async with this_hosts_gpus() as node:
            return await node.gpus()

    return asyncio.run(look())


def _free_mib(gpu_uuid: str) -> int:
    async def look() -> int:
        async with this_hosts_gpus() as node:
            return await node.free_mib(gpu_uuid)

    return asyncio.run(look())


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # Its parent is missing.
        return False


def _has_vllm(python: Path) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        ran = subprocess.run(
            [python, "-c", look], check=False, capture_output=True, timeout=_PYTHON_S
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return ran.returncode == 0
