"""Where the process is that runs Layer 1's slots: a client of the MPS daemon, and without MPS for
as long as there is no daemon. What becomes of it is told as the site's events."""

from __future__ import annotations

import logging

from airan.site import supervision_log
from airan.site.mps_watch import MpsWatch
from airan.site.runtime import SiteRuntime
from airan.site.services import LAYER1, ready_file, runs_mps, tell_ready
from orchestrator.drivers.environment import Side, client, folders_in
from orchestrator.drivers.mps import without_mps
from phy.gpu.worker_pool import HOME, GpuWorker, Place

log = logging.getLogger("airan.l1")

REPLACED, MOVED = "worker.replaced", "worker.moved"


class WorkerKeeper:
    """Belongs to the slots' thread."""

    def __init__(self, runtime: SiteRuntime) -> None:
        """Looks for the daemon."""
        self._runtime = runtime
        self._watch = MpsWatch(runtime) if runs_mps(runtime.config) else None
        self._worker: GpuWorker | None = None
        self._told = (0, True)

    def places(self) -> tuple[Place, ...]:
        """Where workers are started: under the daemon, if the site has one, and outside of it,
        where no death of the daemon reaches."""
        watch, config = self._watch, self._runtime.config
        if watch is None:
            return (Place(),)
        side = Side("ran", config.gpu.ran_memory_mib)
        under = Place(client(side, folders_in(config.state_dir)), lambda: watch.is_there)
        nobody = self._runtime.run_dir / "no-mps"
        nobody.mkdir(parents=True, exist_ok=True)
        return (under, Place(without_mps({}, nobody)))

    def begin(self, worker: GpuWorker | None) -> None:
        """The slots run from now on."""
        self._worker = worker
        if worker is not None:
            self._told = (worker.pid, worker.is_home)
        if worker is None or worker.is_home:
            tell_ready(self._runtime, LAYER1.name)

    def heed(self) -> None:
        """Between two slots: when the daemon has died, the slots go on outside of MPS at once. Who
        computed under it has lost its work, or will."""
        if self._watch is not None and self._watch.has_died() and self._worker is not None:
            self._worker.leave(HOME)

    def keep(self) -> None:
        """Now and then: has processes stand by, and goes back under a daemon that answers. The
        engine starts after that: beside it the GPU would take turns."""
        if self._watch is not None:
            self._watch.look()
        if self._worker is not None:
            self._worker.keep()
            self._worker.go_home()
            self._tell(self._worker)

    @property
    def pid(self) -> int:
        """The process that runs the slots; 0: this one does."""
        return 0 if self._worker is None else self._worker.pid

    def _tell(self, worker: GpuWorker) -> None:
        (before, was_home), self._told = self._told, (worker.pid, worker.is_home)
        if worker.pid == before:
            return
        if worker.is_home:
            tell_ready(self._runtime, LAYER1.name)
        else:
            ready_file(self._runtime, LAYER1.name).unlink(missing_ok=True)
        if worker.is_home == was_home:
            kind, severity = REPLACED, "warning"
            what = f"worker {before} ended; {worker.pid} goes on"
        elif worker.is_home:
            kind, severity = MOVED, "info"
            what = f"goes on under MPS again, worker {worker.pid}"
        else:
            kind, severity = MOVED, "warning"
            what = f"goes on outside of MPS, worker {worker.pid}: the daemon died"
        log.warning("Layer 1 %s", what)
        supervision_log.write(self._runtime.log_dir, LAYER1.name, what, kind, severity)
