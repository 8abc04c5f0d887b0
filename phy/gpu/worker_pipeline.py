"""Pipelines in a process of their own: a broken CUDA context, a crash or a kill costs the slots
under way and a restart, and nothing that this process knows."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy.typing as npt

from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.host_memory import host_sides
from phy.gpu.pipeline import N_SIDES, Elapsed, Tables
from phy.gpu.worker import LaneOrder, Order

_SLOT_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 5.0
_LOOKS = 200


class GpuWorker:
    """Starts the process when its first pipeline is asked for, and again when it has ended."""

    def __init__(
        self,
        lanes: Sequence[LaneOrder],
        gears_sms: Sequence[int | None],
        *,
        has_standby: bool = False,
    ) -> None:
        """Starts nothing yet.

        Args:
            lanes: its pipelines.
            gears_sms: multiprocessors they share in each gear, rounded up to what the GPU can split
                off, None: all.
            has_standby: a second process, with the GPU set up, takes over when the first has ended,
                and another one stands by then. It takes as much memory.
        """
        self._lanes = tuple(lanes)
        self._gears_sms = tuple(gears_sms)
        self._has_standby = has_standby
        self._process: WorkerProcess | None = None
        self._standby: WorkerProcess | None = None
        self._starting: threading.Thread | None = None

    def pipeline(self, lane: int) -> WorkerPipeline:
        """Returns one of the pipelines, made at once, ready when the process has set the GPU up."""
        if self._process is None or self._process.has_ended:
            self._process, self._standby = self._standby, None
            if self._process is None or not self._process.is_alive:
                self._process = WorkerProcess(self._lanes, self._gears_sms)
            if self._has_standby:
                self._starting = threading.Thread(target=self._start_standby, daemon=True)
                self._starting.start()
        return WorkerPipeline(self._process, lane)

    def close(self) -> None:
        """Ends the process that stands by; pipelines end theirs. Again is no error."""
        self._has_standby = False
        if self._starting is not None:
            self._starting.join()
        if self._standby is not None:
            self._standby.close()
            self._standby = None

    def _start_standby(self) -> None:
        """In a thread of its own: what the process is to run is more than a pipe holds, so that
        sending it waits until the process reads."""
        standby = WorkerProcess(self._lanes, self._gears_sms)
        if self._has_standby:
            self._standby = standby
        else:
            standby.close()


class WorkerProcess:
    """A worker and the memory shared with it.

    Attributes:
        gears_sms: multiprocessors it has in each gear; none until it is ready.
        n_bytes: of each lane, what a slot copies in and out.
        doorbells, sides: of each lane.
        has_ended: it is gone, or told to go.
    """

    def __init__(self, lanes: tuple[LaneOrder, ...], gears_sms: tuple[int | None, ...]) -> None:
        self.gears_sms: list[int] = []
        self.n_bytes: list[tuple[int, int]] = [(0, 0)] * len(lanes)
        self.has_ended = False
        self.n_messages = 0
        memory_fd = os.memfd_create("airan-slots")
        ours, theirs = socket.socketpair()
        try:
            os.ftruncate(memory_fd, sum(lane.n_bytes for lane in lanes))
            order = Order(lanes, gears_sms, memory_fd)
            memories = order.memories()
            self.doorbells = [Doorbell(memory[: Doorbell.N_BYTES]) for memory in memories]
            self.sides = [
                host_sides(lane.program, N_SIDES, memory[Doorbell.N_BYTES :])
                for lane, memory in zip(lanes, memories, strict=True)
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "phy.gpu.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), memory_fd),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            self._connection = Connection(ours.detach())
            self._send(order)
        finally:
            theirs.close()
            os.close(memory_fd)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def message(self, lane: int, *values: object) -> None:
        """Sends a message that the lane's next slot comes after.

        Raises:
            GpuFaultError: the process has ended.
        """
        self._send((lane, *values))
        self.n_messages += 1

    def read(self) -> None:
        """Takes in what the process says, without waiting.

        Raises:
            GpuFaultError: it says that the GPU failed, or it has ended.
        """
        try:
            if not self._connection.poll():
                return
            name, *values = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if name == "ready":
            self.gears_sms, self.n_bytes = values
        else:
            self.has_ended = True
            kind, answer, doing = values
            raise GpuFaultError(FaultKind(kind), answer, doing)

    def close(self) -> None:
        """Ends the process; again is no error."""
        self.has_ended = True
        self._connection.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            self.read()  # which says why, if it could still tell
            raise self._ended() from error

    def _ended(self) -> GpuFaultError:
        self.has_ended = True
        code = self._process.poll()
        how = "" if code is None else f", exit code {code}"
        return GpuFaultError(FaultKind.LOST, f"its process ended{how}", "a slot ran")


class WorkerPipeline:
    """One lane of a worker, as a pipeline."""

    def __init__(self, process: WorkerProcess, lane: int) -> None:
        self._process = process
        self._lane = lane
        self._doorbell = process.doorbells[lane]
        self._n_started = self._doorbell.starts
        self._gear = 0
        self._last = dict.fromkeys(range(N_SIDES), -1)
        self._due_s = dict.fromkeys(range(N_SIDES), math.inf)

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._process.pid

    @property
    def n_sms(self) -> int:
        return self._process.gears_sms[self._gear] if self._process.gears_sms else 0

    def shift(self, gear: int) -> None:
        self._gear = gear

    @property
    def n_bytes(self) -> tuple[int, int]:
        return self._process.n_bytes[self._lane]

    def is_ready(self) -> bool:
        if not self._process.gears_sms:
            self._process.read()
        return bool(self._process.gears_sms)

    def inputs(self, side: int) -> Tables:
        return self._process.sides[self._lane][side].inputs.arrays

    def outputs(self, side: int) -> Tables:
        return self._process.sides[self._lane][side].outputs.arrays

    def start(self, side: int) -> None:
        self._doorbell.start(side, self._process.n_messages, self._gear)
        self._last[side] = self._n_started
        self._due_s[side] = time.monotonic() + _SLOT_TIMEOUT_S
        self._n_started += 1

    def is_done(self, side: int) -> bool:
        if self._doorbell.done > self._last[side]:
            return True
        self._process.read()
        if time.monotonic() > self._due_s[side]:
            self._process.kill()  # a process that hangs does not end by itself
            raise GpuFaultError(FaultKind.LOST, "no answer", "a slot ran")
        return False

    def wait(self, side: int) -> Elapsed:
        doorbell, number = self._doorbell, self._last[side]
        while not self.is_done(side):
            # A look costs less than asking the process, or the clock.
            for _ in range(_LOOKS):
                if doorbell.done > number:
                    break
        return Elapsed(*doorbell.times(number))

    def write(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        self._process.message(self._lane, name, first, values)

    def close(self) -> None:
        """Ends the worker, with its other lanes."""
        self._process.close()
