"""A pipeline in a process of its own: a broken CUDA context, a crash or a kill costs the slots
under way and a restart, and nothing that this process knows."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.host_memory import host_sides, n_host_bytes
from phy.gpu.pipeline import N_SIDES, Elapsed, Tables
from phy.gpu.program import Program
from phy.gpu.worker import Order

_READY_TIMEOUT_S = 300.0
_SLOT_TIMEOUT_S = 5.0
_LOOKS = 200
_END_TIMEOUT_S = 5.0


class WorkerPipeline:
    """The pipeline; made at once, ready when its process has set the GPU up."""

    def __init__(
        self, program: Program, n_sms: int | None, write_idle: Callable[[Tables], object]
    ) -> None:
        """Starts the process.

        Args:
            program: to run.
            n_sms: multiprocessors, rounded up to what the GPU can split off; None: all.
            write_idle: writes the inputs of a slot without any work; can be pickled.
        """
        self.n_sms = 0
        self.n_bytes = (0, 0)
        n_bytes = Doorbell.N_BYTES + n_host_bytes(program, N_SIDES)
        memory_fd = os.memfd_create("airan-slots")
        ours, theirs = socket.socketpair()
        try:
            os.ftruncate(memory_fd, n_bytes)
            memory = np.frombuffer(mmap.mmap(memory_fd, n_bytes), np.uint8)
            self._doorbell = Doorbell(memory[: Doorbell.N_BYTES])
            self._sides = host_sides(program, N_SIDES, memory[Doorbell.N_BYTES :])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "phy.gpu.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), memory_fd),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            self._connection = Connection(ours.detach())
            self._n_started = 0
            self._last = dict.fromkeys(range(N_SIDES), -1)
            self._send(Order(program, n_sms, write_idle, memory_fd, n_bytes))
        finally:
            theirs.close()
            os.close(memory_fd)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def is_ready(self) -> bool:
        self._read(0.0)
        return self.n_sms > 0

    def wait_ready(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Waits until slots can be started; the first time, kernels are compiled.

        Raises:
            GpuFaultError: the GPU cannot be set up, or not in time.
        """
        self._read(timeout_s)
        if self.n_sms == 0:
            raise GpuFaultError(FaultKind.LOST, "no answer", "it was being set up")

    def inputs(self, side: int) -> Tables:
        return self._sides[side].inputs.arrays

    def outputs(self, side: int) -> Tables:
        return self._sides[side].outputs.arrays

    def start(self, side: int) -> None:
        self._doorbell.start(side)
        self._last[side] = self._n_started
        self._n_started += 1

    def is_done(self, side: int) -> bool:
        if self._doorbell.done > self._last[side]:
            return True
        self._read(0.0)
        return False

    def wait(self, side: int) -> Elapsed:
        doorbell, number = self._doorbell, self._last[side]
        deadline_s = time.monotonic() + _SLOT_TIMEOUT_S
        while doorbell.done <= number:
            for _ in range(_LOOKS):
                if doorbell.done > number:
                    break
            else:
                self._read(0.0)
                if time.monotonic() > deadline_s:
                    raise GpuFaultError(FaultKind.LOST, "no answer", "a slot ran")
        return Elapsed(*doorbell.times(number))

    def write(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        self._send((name, first, values))
        self._doorbell.message()

    def close(self) -> None:
        """Ends the process."""
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
            self._read(0.0)  # which says why, if it could still tell
            raise self._ended() from error

    def _read(self, timeout_s: float) -> bool:
        """Takes one message in; False if none came in time."""
        try:
            if not self._connection.poll(timeout_s):
                return False
            name, *values = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if name == "ready":
            self.n_sms, self.n_bytes = values
        else:
            kind, answer, doing = values
            raise GpuFaultError(FaultKind(kind), answer, doing)
        return True

    def _ended(self) -> GpuFaultError:
        code = self._process.poll()
        how = "" if code is None else f", exit code {code}"
        return GpuFaultError(FaultKind.LOST, f"its process ended{how}", "a slot ran")
