"""What Layer 1 on the GPU tells the control plane, and learns from it, in a process of its own: the
slot thread of a Python process shares its interpreter with every other thread of it, and a report
in the making would be a late slot."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import select
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from airan.core.errors import AiranError
from airan.site.l1 import REPORT_S, Reporter
from orchestrator.api.client import ControlClient
from orchestrator.views import GpuView, SlotReport

log = logging.getLogger("airan.l1")

_END_S = 5.0


class Reports:
    """The other process, seen from the slots' one; nothing here ever waits for it."""

    def __init__(self, address: str) -> None:
        """Starts it; `address` is the control plane's."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, address), daemon=True)
        self._process.start()
        theirs.close()
        self._ran_sms = 0
        self.is_over = False
        """It has ended: what is sent is heard by nobody."""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def send(self, report: SlotReport) -> None:
        """Passes a report on; one that finds the way blocked is given up."""
        try:
            _, writable, _ = select.select([], [self._connection], [], 0.0)
            if writable:
                self._connection.send(report)
        except OSError:
            self.is_over = True

    @property
    def ran_sms(self) -> int:
        """What the plan gives the RAN, as read last; 0: it is not known yet."""
        try:
            while self._connection.poll():
                self._ran_sms = self._connection.recv()
        except (EOFError, OSError):
            self.is_over = True
        return self._ran_sms

    def close(self) -> None:
        """Ends it."""
        self._connection.close()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _PlanReader(threading.Thread):
    """Reads now and then what the plan gives the RAN."""

    def __init__(self, address: str, stop: threading.Event, tell: Callable[[int], None]) -> None:
        super().__init__(name="plan-reader", daemon=True)
        self._address, self._stop_all, self._tell = address, stop, tell

    def run(self) -> None:
        asyncio.run(self._read())

    async def _read(self) -> None:
        told = 0
        async with ControlClient(self._address) as control:
            while not self._stop_all.is_set():
                try:
                    found = ran_sms(await control.gpus())
                    if found != told:
                        self._tell(found)
                        told = found
                except AiranError as error:
                    log.debug("the plan cannot be read: %s", error)
                except OSError:
                    return
                await asyncio.sleep(REPORT_S)


def ran_sms(gpus: list[GpuView]) -> int:
    """SMs of the RAN's partitions."""
    parts = [part for gpu in gpus for part in gpu.partitions]
    return sum(part.sm_count for part in parts if part.role == "ran" and part.state == "ready")


def _run(connection: Connection, address: str) -> None:
    """The process: until the other end of the connection is closed, or reporting fails."""
    stop = threading.Event()
    reporter = Reporter(address, stop)
    reporter.start()
    _PlanReader(address, stop, connection.send).start()
    try:
        while not stop.is_set():
            reporter.send(connection.recv())
    except (EOFError, OSError):
        pass
    # Threads that talk to a control plane that is away must not hold it up.
    os._exit(0)
