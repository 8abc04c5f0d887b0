"""A pipeline that comes back after faults, and whose sides take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.pipeline import N_SIDES, Pipeline

_RETRY_S = 0.2
_READY_POLL_S = 0.01


class Half:
    """One direction of a cell group: what its lane says of the GPU."""

    _lane: Lane

    @property
    def faults(self) -> dict[str, int]:
        """Faults of the GPU, counted by kind."""
        return self._lane.faults

    @property
    def restarts(self) -> int:
        """How often the GPU was set up again."""
        return self._lane.restarts

    @property
    def n_sms(self) -> int:
        """Multiprocessors it runs on; 0 while there is no GPU."""
        return self._lane.running().n_sms if self._lane.is_running else 0

    @property
    def copied_bytes(self) -> tuple[int, int]:
        """Bytes that every slot copies in and out.

        Raises:
            GpuFaultError: there is no GPU at present.
        """
        return self._lane.running().n_bytes

    def is_ready(self) -> bool:
        """Tells whether there is a GPU at present; after a fault, asking goes on setting it up."""
        return self._lane.is_ready()

    def shift(self, gear: int) -> None:
        """Has the slots that are started from now on run in that gear."""
        self._lane.shift(gear)


class Lane:
    """Keeps one pipeline running.

    Attributes:
        next_side: of the next slot.
        faults: counts by kind.
        restarts: how often the pipeline came back.
    """

    def __init__(
        self,
        make_pipeline: Callable[[], Pipeline],
        on_restart: Callable[[], None],
        now_s: Callable[[], float],
    ) -> None:
        """Waits for the first pipeline to be ready.

        Args:
            make_pipeline: makes one; called again after a fault.
            on_restart: called when a new pipeline is ready.
            now_s: the clock.

        Raises:
            GpuFaultError: the GPU cannot be set up.
        """
        self.next_side = 0
        self.faults: dict[str, int] = {}
        self.restarts = 0
        self._gear = 0
        self._make_pipeline = make_pipeline
        self._on_restart = on_restart
        self._now_s = now_s
        self._next_try_s = -math.inf
        self._coming: Pipeline | None = None
        first = make_pipeline()
        try:
            while not first.is_ready():
                time.sleep(_READY_POLL_S)
        except GpuFaultError:
            first.close()
            raise
        self._pipeline: Pipeline | None = first

    @property
    def is_running(self) -> bool:
        """There is a GPU at present."""
        return self._pipeline is not None

    def running(self) -> Pipeline:
        """Returns the pipeline.

        Raises:
            GpuFaultError: there is no GPU at present.
        """
        if self._pipeline is None:
            raise GpuFaultError(FaultKind.LOST, "no answer", "waiting for the GPU to come back")
        return self._pipeline

    def is_ready(self) -> bool:
        """Tells whether there is a GPU at present; after a fault, asking goes on setting it up,
        without waiting."""
        if self._pipeline is None:
            self._restart()
        return self._pipeline is not None

    def shift(self, gear: int) -> None:
        """Has the slots that are started from now on run in that gear, also after a fault."""
        self._gear = gear
        if self._pipeline is not None:
            self._pipeline.shift(gear)

    def turn(self) -> None:
        """The next side's slot was started."""
        self.next_side = (self.next_side + 1) % N_SIDES

    def count(self, fault: GpuFaultError) -> bool:
        """Counts a fault; tells whether it is the end of the pipeline that runs."""
        self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        return self.is_running and fault.kind in (FaultKind.STICKY, FaultKind.LOST)

    def end(self) -> None:
        """Gives the pipeline up and begins to set up another."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        self._restart()

    def close(self) -> None:
        """Gives the GPU back."""
        for pipeline in (self._pipeline, self._coming):
            if pipeline is not None:
                pipeline.close()
        self._pipeline = self._coming = None

    def _restart(self) -> None:
        try:
            if self._coming is None:
                if self._now_s() < self._next_try_s:
                    return
                self._next_try_s = self._now_s() + _RETRY_S
                self._coming = self._make_pipeline()
            if not self._coming.is_ready():
                return
        except GpuFaultError as fault:
            self.count(fault)
            if self._coming is not None:
                self._coming.close()
            self._coming = None
            return
        self._pipeline, self._coming = self._coming, None
        self._pipeline.shift(self._gear)
        self.next_side = 0
        self.restarts += 1
        self._on_restart()
