"""A site of two Ray nodes with real agents: one host is killed, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from airan.core.config import SiteConfig
from airan.core.errors import AiranError
from airan.site import runtime as site_runtime
from orchestrator.api.client import ControlClient
from orchestrator.policy import Policy
from orchestrator.views import CellView, Event, GpuView, LeaseEvent, SlotReport

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3"}


class Cluster:
    """Ray nodes on loopback, each with all its processes in a POSIX session of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self.environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }

    def start(self, name: str) -> None:
        """The first one is the head."""
        host = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.site.ray_host"),
                *(name, ADDRESSES[name], str(self.folder), self.address),
            ],
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._hosts[name] = host
        if not self.address:
            assert host.stdout is not None
            self.address = host.stdout.readline().decode().strip()

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) == self._hosts[name].pid:
                    found.append(process)
        return found

    def agent(self, name: str) -> psutil.Process:
        (agent,) = [one for one in self.processes(name) if "NodeAgent" in "".join(one.cmdline())]
        return agent

    def kill(self, name: str) -> None:
        """The host is gone at once, with everything on it."""
        while left := self.processes(name):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._hosts[name].communicate()
            psutil.wait_procs(left, timeout=1.0)

    def close(self) -> None:
        for name in self._hosts:
            self.kill(name)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Ray puts Unix sockets below it, whose paths may have 107 characters at most.
    made = Cluster(Path(tempfile.mkdtemp(prefix="airan-")))
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(made.folder, ignore_errors=True)


class Control:
    """A real control process on the cluster, and a client of it."""

    def __init__(self, cluster: Cluster, folder: Path, **node: object) -> None:
        ports = dict.fromkeys(("gateway", "dashboard", "control", "engine", "metrics"), 0)
        config = SiteConfig.model_validate(
            {
                "state_dir": folder / "state",
                "ports": ports,
                "node": {"cluster": cluster.address} | node,
            }
        )
        runtime = site_runtime.resolve(config)
        runtime.save()
        with (folder / "control.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airan.site.control", str(config.state_dir)],
                env=cluster.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.log = folder / "control.log"
        self.client = ControlClient(runtime.control_address)

    async def gpus(self) -> dict[str, GpuView]:
        """The GPU of each node, by the node's name."""
        return {gpu.node: gpu for gpu in await self.client.gpus()}

    async def sms(self, node: str, role: str) -> int:
        gpu = (await self.gpus()).get(node)
        return sum(part.sm_count for part in gpu.partitions if part.role == role) if gpu else 0

    async def is_applied(self) -> bool:
        status = await self.client.status()
        return status.plan.state == "applied" and not status.drift

    async def events(self, kind: str) -> list[Event]:
        return [event for event in await self.client.events(limit=1000) if event.kind == kind]

    async def eventually(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits until it is so; tells how long that took."""
        begun_s = time.monotonic()
        await self._wait(true, what)
        print(f"{time.monotonic() - begun_s:5.1f} s until {what}")

    async def _wait(self, true: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            with contextlib.suppress(AiranError):
                if await true():
                    return
            ended = self.process.poll() is not None
            if ended or asyncio.get_running_loop().time() > deadline_s:
                raise AssertionError(f"not: {what}\n{self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(cluster: Cluster, folder: Path, **node: object) -> AsyncIterator[Control]:
    control = Control(cluster, folder, **node)
    try:
        yield control
        control.process.send_signal(signal.SIGTERM)
        assert control.process.wait(60) == 0, control.log.read_text()[-3000:]
    finally:
        await control.client.aclose()
        control.process.kill()
        control.process.wait()


async def watch(control: Control, holder: str, seen: list[LeaseEvent]) -> None:
    async for event in control.client.watch_leases(holder):
        seen.append(event)


async def reports() -> AsyncIterator[SlotReport]:
    """A tenth of the pool for the cells, ten times a second: with the headroom, one partition."""
    while True:
        cells = (CellView("cell-1", True, 0.1, 51),)
        yield SlotReport(
            "cell-1",
            time.time(),
            slots=50,
            budget_us=1000.0,
            pid=os.getpid(),
            demand_share=0.1,
            cells=cells,
        )
        await asyncio.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.timeout(180)
async def test_a_host_that_dies_at_load_is_replaced_by_the_other_and_comes_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start("a")
    cluster.start("b")
    async with running(cluster, tmp_path) as control, asyncio.TaskGroup() as group:
        seen: list[LeaseEvent] = []
        watching = group.create_task(watch(control, "engine", seen))
        reporting = group.create_task(control.client.report_slots(reports()))
        await _load(control)
        before = await control.gpus()
        assert before["a"].uuid != before["b"].uuid

        await control.client.set_maintenance(before["a"].uuid, on=False)
        cluster.kill("b")
        await _goes_on_without_b(control, seen)

        cluster.start("b")
        await _takes_b_back(control, before["b"].uuid)

        cluster.agent("a").kill()
        await _goes_on_after_an_agent_died(control, before["a"].uuid)
        watching.cancel()
        reporting.cancel()
    await _is_taken_over_with_other_settings(cluster, tmp_path, before)


async def _load(control: Control) -> None:
    """Brings the RAN and an engine to host b."""

    async def both() -> bool:
        # The slot reports were heard too: the RAN does not hold everything any more. One GPU wholly
        # the RAN's could not be divided afterwards without going below what the RAN needs.
        n_ai = sum([await control.sms(node, "ai") for node in "ab"])
        return set(await control.gpus()) == {"a", "b"} and n_ai > 0 and await control.is_applied()

    await control.eventually(both, "both hosts are in the pool, and a plan is applied")
    await control.client.set_maintenance(
        (await control.gpus())["a"].uuid, on=True, reason="the RAN shall go to b"
    )

    async def moved() -> bool:
        return await control.sms("b", "ran") > 0 and await control.sms("a", "ran") == 0

    await control.eventually(moved, "the RAN is on b")

    async def lent() -> bool:
        lease = await control.client.acquire_lease("engine", os.getpid())
        return lease.gpu_uuid == (await control.gpus())["b"].uuid

    await control.eventually(lent, "a partition of b is lent")


async def _goes_on_without_b(control: Control, seen: list[LeaseEvent]) -> None:
    async def replaced() -> bool:
        return await control.sms("a", "ran") > 0 and (await control.gpus())["b"].lost

    await control.eventually(replaced, "the RAN has SMs on a")
    await control.eventually(control.is_applied, "a plan without b is applied")

    async def ended() -> bool:
        ends = [event.lease for event in seen if event.kind == "ended"]
        return [lease.end_reason for lease in ends if lease] == ["partition_lost"]

    await control.eventually(ended, "the engine is told that its partition is lost")
    assert [event.severity for event in await control.events("node.lost")] == ["error"]
    assert (await control.gpus())["b"].partitions == ()


async def _takes_b_back(control: Control, gpu_uuid: str) -> None:
    async def back() -> bool:
        gpu = (await control.gpus())["b"]
        # Its old partitions have no role: they are in no plan.
        roles = {part.role for part in gpu.partitions}
        return not gpu.lost and roles in ({"ai"}, {"ran"}, {"ran", "ai"})

    await control.eventually(back, "b is in use again, with nothing stale left on it")
    await control.eventually(control.is_applied, "a plan with b is applied")
    assert (await control.gpus())["b"].uuid == gpu_uuid
    assert len(await control.events("node.back")) == 1


async def _goes_on_after_an_agent_died(control: Control, gpu_uuid: str) -> None:
    policy = Policy("static", ran_share=0.5)
    await control.client.set_policy(policy)

    async def applied() -> bool:
        status = await control.client.status()
        return await control.is_applied() and status.plan.reason.startswith("static")

    await control.eventually(applied, "a plan is carried out by the agent's successor")
    assert (await control.gpus())["a"].uuid == gpu_uuid


async def _is_taken_over_with_other_settings(
    cluster: Cluster, folder: Path, before: dict[str, GpuView]
) -> None:
    """The next orchestrator finds the agents, and replaces those with old settings."""
    agents = [cluster.agent(name).pid for name in "ab"]
    async with running(cluster, folder, mig_create_ms=10.0) as control:

        async def both() -> bool:
            return set(await control.gpus()) == {"a", "b"} and await control.is_applied()

        await control.eventually(both, "both hosts are in the pool of the next orchestrator")
        after = await control.gpus()
        assert {gpu.uuid for gpu in after.values()} == {gpu.uuid for gpu in before.values()}
        assert not {cluster.agent(name).pid for name in "ab"} & set(agents)
