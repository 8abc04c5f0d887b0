"""One node of a pool: what it last told, and whether it still answers.

answering -> silent (a reading failed or took too long: what it last told stands in for it)
    -> lost (for `lost_after_s`: its GPUs count as fallen off the bus) -> answering

While it is silent a task of its own asks it, so that nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from airan.core.clock import Clock
from airan.core.errors import NotFoundError, UnavailableError
from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.geometry import Geometry

T = TypeVar("T")


@dataclass(frozen=True)
class PoolSettings:
    """How patient the pool is with its nodes. Seconds."""

    read_limit_s: float = 1.0
    """A reading that takes longer has failed."""
    lost_after_s: float = 3.0
    """A node none of whose readings succeeded for this long is lost."""
    probe_s: float = 0.25
    """Pause between two questions to a silent node."""


class Member:
    """A named node. `tell` is called with what happens to it: kind, message, severity."""

    def __init__(
        self,
        name: str,
        driver: Driver,
        clock: Clock,
        settings: PoolSettings,
        tell: Callable[[str, str, str], None],
    ) -> None:
        self.name, self.driver = name, driver
        self._clock, self._settings, self._tell = clock, settings, tell
        self._gpus: tuple[GpuInfo, ...] = ()
        self._geometries: dict[str, Geometry] = {}
        self._instances: tuple[GpuInstance, ...] = ()
        self._homes: dict[str, str] = {}
        self._silent_s: float | None = None
        self._why = ""
        self._lost = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self.settled = asyncio.Event()
        """Set once it has answered, or is lost."""

    # --- what is known of it

    @property
    def silent(self) -> bool:
        """Whether it did not answer when it was last asked."""
        return self._silent_s is not None

    @property
    def lost(self) -> bool:
        """Whether it has been silent for too long."""
        return self._lost.is_set()

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Its GPUs as it last told; those of a lost node are lost."""
        if not self.lost:
            return self._gpus
        return tuple(
            replace(info, lost=True, power_w=None, energy_j=None, temperature_c=None)
            for info in self._gpus
        )

    def geometry(self, gpu_uuid: str) -> Geometry:
        """How one of its GPUs may be divided, by what it last told.

        Raises:
            NotFoundError: no geometry is known for it.
        """
        if gpu_uuid not in self._geometries:
            raise NotFoundError(f"there is no geometry for GPU {gpu_uuid} of node {self.name}")
        return self._geometries[gpu_uuid]

    def instances(self) -> tuple[GpuInstance, ...]:
        """Its GPU instances as it last told; of a lost node none."""
        return () if self.lost else self._instances

    def holds(self, uuid: str) -> bool:
        """Whether it was last seen to have that GPU instance, on a lost GPU too."""
        return uuid in self._homes

    def remember(self, one: GpuInstance) -> None:
        """Takes note of an instance that has just been made on it."""
        self._homes[one.uuid] = one.gpu_uuid

    # --- asking it

    async def read_gpus(self) -> None:
        """Asks for the GPUs, unless it is silent; never takes longer than a reading may."""
        await self._read(self._take_gpus)

    async def read_instances(self) -> None:
        """Asks for the GPU instances, likewise."""
        await self._read(self._take_instances)

    async def change(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call that changes the node.

        Raises:
            UnavailableError: the node is lost, or gets lost before it answers.
        """
        self.refuse_lost()
        work = asyncio.ensure_future(call())
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.refuse_lost()
            return await work
        finally:
            for task in (work, lost):
                task.cancel()
            await asyncio.gather(work, lost, return_exceptions=True)

    def refuse_lost(self) -> None:
        """Returns if it is not lost.

        Raises:
            UnavailableError: it is.
        """
        if self.lost:
            raise UnavailableError(
                f"node {self.name} is lost: {self._why}",
                remedy="bring the host back; what a call did there is looked at again then",
            )

    def replace_driver(self, driver: Driver) -> None:
        """Reaches the node through another driver from now on."""
        self.driver = driver
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    # --- within

    async def _read(self, take: Callable[[], Awaitable[None]]) -> None:
        if self.silent:
            self._judge()
            self._keep_asking()
            return
        begun_s = self._clock.monotonic_s()
        if why := await self._fails(take):
            self._fall_silent(begun_s, why)

    async def _fails(self, take: Callable[[], Awaitable[None]]) -> str:
        """Why the reading failed; empty if it did not."""
        limit_s = self._settings.read_limit_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await take()
        except TimeoutError:
            if not limit.expired():
                raise
            return f"no answer within {limit_s:g} s"
        except UnavailableError as error:
            return error.message
        self.settled.set()
        return ""

    async def _take_gpus(self) -> None:
        driver = self.driver
        found = await driver.gpus()
        self._gpus = tuple(replace(info, node=self.name) for info in found)
        self._geometries = {}
        for info in found:
            # One that nobody knows how to divide has none.
            with contextlib.suppress(NotFoundError):
                self._geometries[info.uuid] = driver.geometry(info.uuid)

    async def _take_instances(self) -> None:
        self._instances = await self.driver.instances()
        # On a GPU that fell off the bus they are not listed, but can still be evicted.
        lost = {info.uuid for info in self._gpus if info.lost}
        kept = {uuid: gpu for uuid, gpu in self._homes.items() if gpu in lost}
        self._homes = kept | {one.uuid: one.gpu_uuid for one in self._instances}

    async def _take_all(self) -> None:
        await self._take_gpus()
        await self._take_instances()

    def _fall_silent(self, begun_s: float, why: str) -> None:
        if self._silent_s is None:
            self._silent_s = begun_s
        self._why = why
        self._judge()
        self._keep_asking()

    def _judge(self) -> None:
        """Gives it up once it has been silent for too long."""
        if self._silent_s is None or self.lost:
            return
        silent_s = self._clock.monotonic_s() - self._silent_s
        if silent_s >= self._settings.lost_after_s:
            self._lost.set()
            self.settled.set()
            message = f"node {self.name} is lost with {len(self._gpus)} GPUs: {self._why}"
            self._tell("node.lost", message, "error")

    def _keep_asking(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_until_it_answers())

    async def _ask_until_it_answers(self) -> None:
        while why := await self._fails(self._take_all):
            self._why = why
            self._judge()
            await asyncio.sleep(self._settings.probe_s)
        self._silent_s = None
        if self.lost:
            self._lost.clear()
            message = f"node {self.name} answers again, with {len(self._instances)} partitions"
            self._tell("node.back", message, "warning")
