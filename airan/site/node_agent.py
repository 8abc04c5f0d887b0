"""The node agent: one process a host, which has the host's GPUs in its hands.

It carries out what the leading orchestrator asks, refuses one whose lead is over, and keeps what
it must remember in files, so that it may die at any time.
"""

from __future__ import annotations

import fcntl
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airan.core.errors import AiranError, InvalidInputError, UnavailableError
from orchestrator.drivers.base import Driver
from orchestrator.drivers.epoch import EpochDriver, EpochGate
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.simulated import SimulatedNode

_CALLS = frozenset(
    {"gpus", "geometry", "instances", "create", "destroy", "resize", "attach", "detach", "evict"}
)


@dataclass(frozen=True)
class AgentSettings:
    """What an agent needs to know; the same on all hosts of a site."""

    state_dir: Path
    """On the host; each node has a folder of its own below it."""
    gpu: str
    n_gpus: int
    delays_s: tuple[float, float]
    """Of the simulated hardware: to create and to destroy one GPU instance."""
    driver: str = "simulated"
    """Or `nvml`: the host's NVIDIA GPUs; then what is said of simulated ones does not count."""
    partition: str = "mig"
    """How simulated GPUs are divided."""


@dataclass(frozen=True)
class Answer:
    """What came of a call: errors are values here, because Ray wraps what is raised."""

    value: Any = None
    error: AiranError | None = None


class NodeAgent:
    """The agent of the node `name`. Belongs to one event loop.

    Raises:
        UnavailableError: another agent has the node's GPUs in its hands, or NVML is not there.
        NotFoundError: the geometry table has no such simulated GPU.
    """

    def __init__(self, name: str, settings: AgentSettings) -> None:
        self._name, self._settings = name, settings
        folder = settings.state_dir / "nodes" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (folder / "agent.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UnavailableError(f"node {name} has an agent, which has not ended yet") from error
        self._gate = EpochGate(name, folder / "epoch")
        try:
            self._driver = _driver(name, folder, settings)
        except AiranError:
            self._lock.close()
            raise

    async def describe(self) -> tuple[AgentSettings, int]:
        """Its settings and its process."""
        return self._settings, os.getpid()

    def close(self) -> None:
        """Lets go of the GPUs, which stay as they are. A process that ends does so, too."""
        self._lock.close()

    async def call(self, epoch: int, method: str, *arguments: Any) -> Answer:
        """Calls the driver's method for the orchestrator of that epoch."""
        try:
            if method not in _CALLS:
                raise InvalidInputError("method", f"a node has no {method!r}")
            driver = EpochDriver(self._driver, self._gate, epoch)
            value = getattr(driver, method)(*arguments)
            return Answer(await value if inspect.isawaitable(value) else value)
        except AiranError as error:
            return Answer(error=error)


def _driver(name: str, folder: Path, settings: AgentSettings) -> Driver:
    if settings.driver == "nvml":
        return NvmlNode()
    return SimulatedNode(
        folder / "simulated-node.json",
        settings.gpu,
        settings.n_gpus,
        kind=settings.partition,
        delays_s=settings.delays_s,
        name=name,
    )
