"""The process that runs a cell group's slots, and those that stand by for it.

Processes that share a driver's server end with it, all at once: who stands by beside them is no
help then. So there can be several places to start them in, and one stands by in each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from phy.gpu.faults import GpuFaultError
from phy.gpu.worker import LaneOrder
from phy.gpu.worker_pipeline import WorkerPipeline, WorkerProcess

log = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""Between two that are started to stand by in one place."""
HOME = 0
"""The place that is wanted."""


@dataclass(frozen=True)
class Place:
    """Where workers are started whose fates go together.

    Attributes:
        environment: variables that say so, in addition to this process's own.
        is_open: whether one may be started there now.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    is_open: Callable[[], bool] = lambda: True


class GpuWorker:
    """Starts the process when its first pipeline is asked for, and again when it has ended.

    All but the starting of those that stand by happens in the caller's thread.
    """

    def __init__(
        self,
        lanes: Sequence[LaneOrder],
        gears_sms: Sequence[int | None],
        *,
        has_standby: bool = False,
        places: Sequence[Place] = (Place(),),
    ) -> None:
        """Starts nothing yet.

        Args:
            lanes: its pipelines.
            gears_sms: multiprocessors they share in each gear, rounded up to what the GPU can split
                off, None: all.
            has_standby: a second process, with the GPU set up, takes over when the first has ended,
                and another one stands by then; one in each place. Each takes as much memory.
            places: the wanted one first; the others are for when that is not open, or who stood
                by there has ended too.
        """
        self._lanes = tuple(lanes)
        self._gears_sms = tuple(gears_sms)
        self._has_standby = has_standby
        self._places = tuple(places)
        self._process: WorkerProcess | None = None
        self._at = HOME
        self._standby: dict[int, WorkerProcess] = {}
        self._starting: threading.Thread | None = None
        self._n_left = 0
        self._again_s: dict[int, float] = {}

    @property
    def pid(self) -> int:
        """Of the process that runs slots; 0: there is none yet."""
        return 0 if self._process is None else self._process.pid

    @property
    def is_home(self) -> bool:
        """Whether it runs in the first place."""
        return self._at == HOME

    @property
    def can_go_home(self) -> bool:
        """Whether one stands by in the first place with the GPU set up."""
        standby = self._standby.get(HOME)
        if standby is None or not self._places[HOME].is_open():
            return False
        try:
            if not standby.gears_sms:
                standby.read()
        except GpuFaultError as fault:
            log.warning("who stood by at home: %s", fault)
            self._discard(HOME)
            return False
        return bool(standby.gears_sms)

    def pipeline(self, lane: int) -> WorkerPipeline:
        """Returns one of the pipelines, made at once, ready when the process has set the GPU up."""
        if self._process is None or self._process.has_ended:
            self._process, self._at = self._next()
            self.keep()
        return WorkerPipeline(self._process, lane)

    def keep(self) -> None:
        """Has processes started that ought to stand by and do not; returns at once. Call it now and
        then: a place may have opened."""
        if not self._has_standby or (self._starting is not None and self._starting.is_alive()):
            return
        now_s = time.monotonic()
        missing = [at for at in range(len(self._places)) if self._is_wanted(at, now_s)]
        if missing:
            self._again_s.update(dict.fromkeys(missing, now_s + _AGAIN_S))
            self._starting = threading.Thread(target=self._start, args=(missing,), daemon=True)
            self._starting.start()

    def leave(self, at: int) -> None:
        """A place is at an end: kills what runs and stands by there. The pipelines fail, and those
        asked for next are in another."""
        self._n_left += 1
        self._again_s.pop(at, None)
        self._discard(at)
        if self._process is not None and self._at == at:
            self._process.kill()

    def go_home(self) -> None:
        """Goes on in the first place, if one stands by there; the slots under way are lost."""
        if not self.is_home and self._process is not None and self.can_go_home:
            self._process.kill()

    def close(self) -> None:
        """Ends the processes that stand by; pipelines end theirs. Again is no error."""
        self._has_standby = False
        if self._starting is not None:
            self._starting.join()
        while self._standby:
            self._standby.popitem()[1].close()

    def _next(self) -> tuple[WorkerProcess, int]:
        is_open = [place.is_open() for place in self._places]
        for at in range(len(self._places)):
            if is_open[at] and not self._lacks(at):
                return self._standby.pop(at), at
        at = is_open.index(True) if any(is_open) else len(self._places) - 1
        return self._made(at), at

    def _made(self, at: int) -> WorkerProcess:
        return WorkerProcess(self._lanes, self._gears_sms, self._places[at].environment)

    def _is_wanted(self, at: int, now_s: float) -> bool:
        """One has to be started there to stand by; not again and again where that fails."""
        if not self._lacks(at) or not self._places[at].is_open():
            return False
        failed = self._standby.pop(at, None)
        if failed is not None:
            try:
                failed.read()
            except GpuFaultError as fault:
                log.warning("who stood by in place %d: %s", at, fault)
            failed.close()
        return now_s >= self._again_s.get(at, 0.0)

    def _lacks(self, at: int) -> bool:
        """Nobody stands by there who lives."""
        standby = self._standby.get(at)
        return standby is None or not standby.is_alive

    def _discard(self, at: int) -> None:
        standby = self._standby.pop(at, None)
        if standby is not None:
            standby.kill()
            standby.close()

    def _start(self, places: Sequence[int]) -> None:
        """In a thread of its own: what the process is to run is more than a pipe holds, so that
        sending it waits until the process reads."""
        for at in places:
            n_left = self._n_left
            standby = self._made(at)
            # A place that ended meanwhile may be open again, and this one not be part of it.
            if self._has_standby and self._n_left == n_left and self._places[at].is_open():
                self._standby[at] = standby
            else:
                standby.close()
