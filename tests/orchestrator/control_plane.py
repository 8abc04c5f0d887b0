"""A control plane's settings, and a slot runtime that reports to one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from orchestrator.policy import Policy
from orchestrator.service import ControlSettings
from orchestrator.views import CellView, SlotReport


def settings(path: Path, **values: Any) -> ControlSettings:
    body = {
        "site": "edge-1",
        "state_dir": path,
        "site_started_s": time.time(),
        "mig_create_ms": 10.0,
        "mig_destroy_ms": 5.0,
        "interval_ms": 50,
        "policy": Policy(min_lease_s=0.5, notice_ms=200),
    }
    return ControlSettings(**(body | values))


async def quiet_ran() -> AsyncIterator[SlotReport]:
    """A slot runtime, played by this process, that needs 15% of the GPU."""
    while True:
        yield SlotReport(
            "cell-1",
            time.time(),
            slots=5,
            p99_us=300.0,
            budget_us=1000.0,
            slowdown=40.0,
            demand_share=0.15,
            cells=(CellView("cell-1", True, 0.2, 51), CellView("cell-2", False, 0.1, 51)),
            histogram_counts=(4, 1, 0),
            histogram_edges_us=(500.0, 1000.0),
            pid=os.getpid(),
        )
        await asyncio.sleep(0.02)


async def until(found: Callable[[], Any]) -> Any:
    """Waits for a call's answer to become true."""
    async with asyncio.timeout(60):
        while True:
            answer = await found()
            if answer:
                return answer
            await asyncio.sleep(0.02)
