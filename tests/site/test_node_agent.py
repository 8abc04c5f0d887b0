"""The node agent and the driver over it, with a pickle's round trip for the network."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)

from airan.core.errors import (
    CapacityError,
    InUseError,
    InvalidInputError,
    NotFoundError,
    NotLeaderError,
    UnavailableError,
)
from airan.site.agent_driver import AgentDriver
from airan.site.node_agent import AgentSettings, NodeAgent
from orchestrator.mig import MigGeometry


def settings(path: Path) -> AgentSettings:
    return AgentSettings(path, "H100-SXM5-80GB", 1, (0.0, 0.0))


class Actor:
    """Stands for Ray's handle of an agent. `fails` is raised by its calls."""

    def __init__(self, agent: NodeAgent) -> None:
        self._agent, self.fails = agent, None
        self.call = self

    fails: RayError | None

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        return self._carry(pickle.dumps(arguments))

    async def _carry(self, arguments: bytes) -> Any:
        if self.fails is not None:
            raise self.fails
        return pickle.loads(pickle.dumps(await self._agent.call(*pickle.loads(arguments))))


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[Actor]:
    agent = NodeAgent("a", settings(tmp_path))
    yield Actor(agent)
    agent.close()


@pytest.fixture
def driver(actor: Actor) -> AgentDriver:
    return AgentDriver("a", actor, 3)


async def test_a_node_is_the_same_through_its_agent(driver: AgentDriver) -> None:
    (gpu,) = await driver.gpus()
    assert (gpu.node, gpu.simulated) == ("a", True)
    assert driver.geometry(gpu.uuid) == MigGeometry.load("H100-SXM5-80GB")
    made = await driver.create(gpu.uuid, "3g.40gb", 4)
    assert await driver.instances() == (made,)
    await driver.attach(made.uuid, os.getpid())
    with pytest.raises(InUseError, match=str(os.getpid())):
        await driver.destroy(made.uuid)
    assert await driver.evict(made.uuid) == (), "an agent never kills itself"
    await driver.detach(made.uuid, os.getpid())
    await driver.destroy(made.uuid)
    assert await driver.instances() == ()


async def test_errors_come_through_as_what_they_are(driver: AgentDriver) -> None:
    (gpu,) = await driver.gpus()
    await driver.create(gpu.uuid, "4g.40gb", 0)
    failing: list[tuple[type[Exception], Callable[[], Awaitable[object]]]] = [
        (CapacityError, lambda: driver.create(gpu.uuid, "2g.20gb", 2)),
        (InvalidInputError, lambda: driver.create(gpu.uuid, "3g.40gb", 2)),
        (NotFoundError, lambda: driver.create("GPU-none", "3g.40gb", 4)),
        (NotFoundError, lambda: driver.destroy("MIG-none")),
    ]
    for kind, call in failing:
        with pytest.raises(kind) as caught:
            await call()
        assert type(caught.value) is kind
    with pytest.raises(NotFoundError, match="GPU-none"):
        driver.geometry("GPU-none")


async def test_an_agent_obeys_the_highest_epoch_also_after_a_restart(tmp_path: Path) -> None:
    first = NodeAgent("a", settings(tmp_path))
    old = AgentDriver("a", Actor(first), 3)
    (gpu,) = await old.gpus()
    made = await old.create(gpu.uuid, "1g.10gb", 0)
    await AgentDriver("a", Actor(first), 4).instances()
    with pytest.raises(NotLeaderError, match="node a obeys the orchestrator of epoch 4"):
        await old.destroy(made.uuid)
    first.close()
    with contextlib.closing(NodeAgent("a", settings(tmp_path))) as again:
        with pytest.raises(NotLeaderError, match="epoch 4"):
            await AgentDriver("a", Actor(again), 3).destroy(made.uuid)
        assert await AgentDriver("a", Actor(again), 4).instances() == (made,)


async def test_two_agents_never_have_the_same_gpus_in_their_hands(tmp_path: Path) -> None:
    with contextlib.closing(NodeAgent("a", settings(tmp_path))) as first:
        with pytest.raises(UnavailableError, match="node a has an agent"):
            NodeAgent("a", settings(tmp_path))
        NodeAgent("b", settings(tmp_path)).close()
        assert await first.describe() == (settings(tmp_path), os.getpid())
    NodeAgent("a", settings(tmp_path)).close()


async def test_an_agent_that_finds_no_gpus_lets_go_of_the_node(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        NodeAgent("a", replace(settings(tmp_path), gpu="no such GPU"))
    NodeAgent("a", settings(tmp_path)).close()


async def test_only_a_drivers_methods_can_be_called(actor: Actor) -> None:
    answer = await actor.remote(3, "__init__", "a")
    assert isinstance(answer.error, InvalidInputError)


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (ActorDiedError(), True),
        (ActorUnschedulableError("its node is gone"), True),
        (ActorUnavailableError("it restarts", None), False),
        (WorkerCrashedError(), False),
        (RaySystemError("the raylet hung up"), False),
    ],
)
async def test_rays_errors_are_a_node_that_does_not_answer(
    actor: Actor, driver: AgentDriver, error: RayError, dead: bool
) -> None:
    await driver.gpus()
    actor.fails = error
    with pytest.raises(UnavailableError, match=f"node a does not answer: {type(error).__name__}"):
        await driver.instances()
    assert driver.dead == dead
