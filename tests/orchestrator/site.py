"""A whole control plane over a simulated node, for tests: time moves by hand."""

from __future__ import annotations

import os
from pathlib import Path

from airan.core.clock import ManualClock
from orchestrator.control import ControlOptions, ControlPlane
from orchestrator.drivers.base import Driver
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.executor import ExecutorSettings
from orchestrator.leases import LeaseSettings
from orchestrator.plan import role_sms
from orchestrator.policy import Policy
from orchestrator.store import Store
from orchestrator.views import CellView, SlotReport

STARTED_S = 1_000_000.0
POLICY = Policy(headroom=0.1, min_lease_s=2.0, notice_ms=50)


class Site:
    """A control plane on a clock moved by hand, with the slot runtime played by this process."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpus: int = 1,
        started_s: float = STARTED_S,
        driver: Driver | None = None,
    ) -> None:
        """`driver`: in place of the simulated node, which is there then, too, and not used. It may
        have a thread, which on a busy machine takes its time."""
        self.clock = ManualClock(STARTED_S)
        self.node = SimulatedNode(
            path / "node.json", "GH200-96GB", n_gpus, delays_s=(0.0, 0.0), clock=self.clock
        )
        self.store = Store(path / "control.sqlite")
        options = ControlOptions(
            site="edge-1",
            site_started_s=started_s,
            change_s=0.2,
            leases=LeaseSettings(watch_grace_s=600.0, restart_grace_s=600.0),
            executor=ExecutorSettings(retry_s=0.001, call_timeout_s=30.0 if driver else 2.0),
        )
        self.control = ControlPlane(self.store, driver or self.node, self.clock, POLICY, options)

    async def report(self, demand: float, **values: object) -> None:
        body = {"slots": 50, "budget_us": 1000.0, "pid": os.getpid()} | values
        cells = (CellView("cell-1", True, demand, 51),)
        report = SlotReport(
            "cell-1",
            self.clock.now_s(),
            demand_share=demand,
            cells=cells,
            **body,  # type: ignore[arg-type]
        )
        await self.control.take_report(report)

    async def play(self, demand: float, seconds: float = 5.0) -> None:
        """Reports, looks and applies twice a second, as the loops would."""
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            await self.report(demand)
            await self.control.tick()
            await self.settle()

    async def settle(self) -> None:
        newest = self.store.newest_plan()
        if newest is not None and newest.state in ("stored", "applying"):
            await self.control.apply_newest()
        await self.check_integrity()

    async def check_integrity(self) -> None:
        """Slices used and free are the whole GPU, and nothing is lent that is not the AI's."""
        for gpu in (await self.control.status()).gpus:
            used = [0] * gpu.memory_slices
            for part in gpu.partitions:
                for position in range(part.start, part.start + part.size):
                    used[position] += 1
                assert not part.lease_id or part.role == "ai"
            assert max(used, default=0) <= 1

    async def ran_sms(self) -> int:
        return role_sms((await self.control.observer.inventory()).partitions, "ran")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(0, 1000)]

    async def close(self) -> None:
        await self.control.close()
        self.store.close()
