"""Layer 1's reports in a process of their own, over a real control plane on a simulated GPU."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from airan.site.l1_reports import Reports
from orchestrator.service import ControlSettings, running
from orchestrator.views import CellView, SlotReport


def report(time_s: float) -> SlotReport:
    return SlotReport(
        "cell-00",
        time_s,
        slots=1000,
        slots_late=3,
        budget_us=1250.0,
        cells=(CellView("cell-00", True, 0.5, 273),),
        demand_share=0.4,
        device="test",
        pid=os.getpid(),
    )


async def eventually(true: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


async def test_reports_arrive_and_the_plan_comes_back(tmp_path: Path) -> None:
    settings = ControlSettings("edge-1", tmp_path, 0.0, interval_ms=50)
    async with running(settings) as (control, port):
        reports = Reports(f"127.0.0.1:{port}")
        pid = reports.pid
        try:
            reports.send(report(control.clock.now_s()))
            await eventually(lambda: reports.ran_sms > 0)
            async with asyncio.timeout(60.0):
                while not (status := await control.status()).slots.slots:
                    await asyncio.sleep(0.02)
            assert status.slots.slots == 1000
            assert status.slots.slots_late == 3
            assert reports.ran_sms <= 132
            assert not reports.is_over
        finally:
            await asyncio.to_thread(reports.close)
        assert not psutil.pid_exists(pid)


async def test_a_control_plane_that_is_away_holds_nobody_up() -> None:
    reports = Reports("127.0.0.1:9")
    for _ in range(2000):
        reports.send(report(1.0))
    assert reports.ran_sms == 0
    assert not reports.is_over
    os.kill(reports.pid, signal.SIGKILL)

    def told() -> bool:
        reports.send(report(1.0))
        return reports.is_over

    await eventually(told)
    reports.close()
