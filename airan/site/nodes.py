"""The hosts of a site: one agent on each node of a Ray cluster, and the pool of them all.

A node of the cluster is a GPU node if it was started with the resource `airan_node`. Agents
outlive the orchestrator that started them; the next one finds them by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from airan.core.clock import Clock
from airan.core.errors import UnavailableError
from airan.site.agent_driver import AgentDriver
from airan.site.node_agent import AgentSettings, NodeAgent
from orchestrator.drivers.base import Driver
from orchestrator.drivers.pool import PoolDriver, PoolSettings
from orchestrator.service import ControlSettings, NodeOpener

T = TypeVar("T")

RESOURCE = "airan_node"
START_S = 30.0
"""An agent may take this long to start: a Python process with its imports."""
LOOK_S = 0.5
"""How often it is looked which nodes the cluster has."""
RETRY_S = 1.0
"""Pause after an agent that did not start."""
_LOG = logging.getLogger("airan.site.nodes")


@dataclass(frozen=True)
class ClusterSettings:
    """Where the hosts are."""

    address: str
    """Of Ray's head, `host:port` or `auto`. This host must be a node of the cluster, too."""
    namespace: str
    """One a site: agents are found in it by name."""
    pool: PoolSettings
    driver: str = "simulated"
    """Of every host: `simulated` or `nvml`."""


@dataclass(frozen=True)
class RayNode:
    """A live node of the cluster that has GPUs for us."""

    id: str
    name: str


def in_cluster(cluster: ClusterSettings) -> NodeOpener:
    """Opens all hosts of a Ray cluster as one driver."""

    @contextlib.asynccontextmanager
    async def opened(settings: ControlSettings, clock: Clock, epoch: int) -> AsyncIterator[Driver]:
        agents = AgentSettings(
            settings.state_dir,
            settings.gpu,
            settings.n_gpus,
            settings.delays_s,
            cluster.driver,
            settings.partition,
        )
        nodes = Nodes(cluster, agents, epoch, clock)
        try:
            await nodes.open()
            yield nodes.pool
        finally:
            await nodes.close()

    return opened


class Nodes:
    """Keeps one agent on every host that the cluster has, for the orchestrator of an epoch.

    Belongs to one event loop, which it never blocks: Ray's own calls run in threads.
    """

    def __init__(
        self, cluster: ClusterSettings, agents: AgentSettings, epoch: int, clock: Clock
    ) -> None:
        self._cluster, self._settings, self._epoch = cluster, agents, epoch
        self.pool = PoolDriver({}, clock, cluster.pool)
        self._threads = ThreadPoolExecutor(4, "ray")
        self._drivers: dict[str, AgentDriver] = {}
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._refused: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects, and returns when every host's agent has answered or is overdue.

        Raises:
            UnavailableError: there is no such cluster, or no agent on it answers.
        """
        await self._in_thread(self._connect)
        await self._look()
        joining = list(self._joining.values())
        if joining:
            # The first may take as long as agents take; then the others are late.
            await asyncio.wait(joining, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(joining, timeout=self._cluster.pool.lost_after_s)
        if not self.pool.nodes:
            raise UnavailableError(
                f"no node of the Ray cluster at {self._cluster.address} has an agent that answers",
                remedy=f"start nodes with: ray start --resources '{{\"{RESOURCE}\": 1}}'",
            )
        await self.pool.meet()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Leaves the cluster; the agents stay for the next orchestrator."""
        tasks = [*self._joining.values()]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pool.close()
        await self._in_thread(ray.shutdown)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- which nodes there are

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except UnavailableError as error:
                _LOG.warning("%s", error)

    async def _look(self) -> None:
        """Starts what is missing: an agent for each node that has none, or a dead one."""
        alive = {node.id: node for node in await self._in_thread(_ray_nodes)}
        for gone in self._drivers.keys() - alive.keys():
            # The pool notices by itself that nobody answers.
            del self._drivers[gone]
        for gone in self._joining.keys() - alive.keys():
            self._joining.pop(gone).cancel()
        for node in alive.values():
            driver, joining = self._drivers.get(node.id), self._joining.get(node.id)
            if joining is not None and not joining.done():
                continue
            if (driver is None or driver.dead) and not self._is_double(node):
                self._joining[node.id] = asyncio.create_task(self._join(node))

    def _is_double(self, node: RayNode) -> bool:
        """Whether another live node has the same name: that cannot be told apart."""
        names = {one.name for id, one in self._drivers.items() if id != node.id}
        if node.name in names and node.id not in self._refused:
            self._refused.add(node.id)
            _LOG.error(
                "two nodes of the Ray cluster are called %s: the second is left out;"
                " start it with another --node-name",
                node.name,
            )
        return node.name in names

    async def _join(self, node: RayNode) -> None:
        """Finds or starts the node's agent, and puts it into the pool once it answers."""
        while (agent := await self._agent_of(node)) is None:
            await asyncio.sleep(RETRY_S)
        if self._is_double(node):
            return
        self._drivers[node.id] = driver = AgentDriver(node.name, agent, self._epoch)
        self.pool.put(node.name, driver)

    async def _agent_of(self, node: RayNode) -> ActorHandle | None:
        """The node's agent, if it answers; one with other settings is ended."""
        try:
            async with asyncio.timeout(START_S):
                agent = await self._in_thread(lambda: self._agent_on(node))
                settings, pid = await agent.describe.remote()
                if settings == self._settings:
                    _LOG.info("node %s has an agent, process %d", node.name, pid)
                    return agent
                _LOG.info("the agent of node %s has old settings: started anew", node.name)
                await self._in_thread(lambda: ray.kill(agent, no_restart=True))
        except (RayError, ValueError, TimeoutError) as error:
            _LOG.warning("node %s has no agent yet: %s", node.name, error or "no answer")
        return None

    # --- Ray's own calls, which block

    def _connect(self) -> None:
        try:
            ray.init(
                address=self._cluster.address,
                namespace=self._cluster.namespace,
                log_to_driver=False,
                configure_logging=False,
            )
        except (RayError, ConnectionError, RuntimeError) as error:
            raise UnavailableError(
                f"there is no Ray cluster at {self._cluster.address}: {error}",
                remedy="start one with `ray start --head`; this host must be a node of it, too",
            ) from error

    def _agent_on(self, node: RayNode) -> ActorHandle:
        return (
            ray.remote(NodeAgent)
            .options(
                # Whatever was on a host before it was lost has another node's id.
                name=f"node-{node.name}-{node.id[:12]}",
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote(node.name, self._settings)
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work)


def _ray_nodes() -> list[RayNode]:
    try:
        found: list[dict[str, Any]] = ray.nodes()
    except RayError as error:
        raise UnavailableError(f"Ray does not tell its nodes: {error}") from error
    ours = [one for one in found if one["Alive"] and one["Resources"].get(RESOURCE)]
    return [RayNode(one["NodeID"], _name(one)) for one in ours]


def _name(node: dict[str, Any]) -> str:
    """What it was called at its start; a node that was not has its address for a name."""
    given: str = node["NodeName"]
    host: str = node["NodeManagerHostname"]
    return host if given == node["NodeManagerAddress"] else given
