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
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy.typing as npt

from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.host_memory import host_sides
from phy.gpu.pipeline import N_SIDES, Elapsed, Tables
from phy.gpu.worker import LaneOrder, Order

_SLOT_TIMEOUT_S = 0.5
_END_TIMEOUT_S = 5.0
_LOOKS = 200


class WorkerProcess:
    """A worker and the memory shared with it.

    Attributes:
        gears_sms: multiprocessors it has in each gear; none until it is ready.
        n_bytes: of each lane, what a slot copies in and out.
        doorbells, sides: of each lane.
        has_ended: it is gone, or told to go.
    """

    def __init__(
        self,
        lanes: tuple[LaneOrder, ...],
        gears_sms: tuple[int | None, ...],
        environment: Mapping[str, str],
    ) -> None:
        """Starts it; `environment` is in addition to this process's own."""
        self.gears_sms: list[int] = []
        self.n_bytes: list[tuple[int, int]] = [(0, 0)] * len(lanes)
        self.has_ended = False
        self.n_messages = 0
        self._is_killed = False
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
                env={
                    **os.environ,
                    **environment,
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
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
        """Ends it at once; nothing that it says counts any more."""
        self._is_killed = True
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
        if self._is_killed:
            raise self._ended()
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
        """Ends the process; again is no error. One that has failed, or was killed, is waited for by
        a thread of its own: the driver may take its time to clear up, and slots would wait with
        us."""
        is_over, self.has_ended = self.has_ended or self._is_killed, True
        self._connection.close()
        if is_over:
            threading.Thread(target=self._await_end, daemon=True).start()
        else:
            self._await_end()

    def _await_end(self) -> None:
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
