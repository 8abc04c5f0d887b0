"""The `mps` process: `python -m airan.site.mps STATE_DIR`, which owns the GPU's MPS daemon.

The daemon has pipes and logs of its own, so that no other daemon of the host is touched. When it
dies this process ends, and the supervisor starts it anew, and its clients after it: their work on
the GPU went with it.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from airan.core.errors import UnavailableError
from airan.site.main import service_main, stop_event
from airan.site.processes import ProcessRecord
from airan.site.runtime import SiteRuntime
from airan.site.services import MPS, tell_ready
from orchestrator.drivers.environment import folders_in
from orchestrator.drivers.mps import MpsDaemon

log = logging.getLogger("airan.mps")

LOOK_S = 0.1


def main(runtime: SiteRuntime) -> None:
    """Keeps the daemon until stopped.

    Raises:
        UnavailableError: the daemon died, or does not start.
    """
    stop = stop_event()
    record = runtime.run_dir / "mps-daemon.json"
    end_leftover(record)
    folder = folders_in(runtime.config.state_dir).pipe_dir.parent
    daemon = MpsDaemon(folder, runtime.config.gpu.mps_binary)
    daemon.start()
    try:
        ProcessRecord.of(daemon.pid).save(record)
        tell_ready(runtime, MPS.name)
        log.info("the MPS daemon runs, process %d", daemon.pid)
        watch(daemon, stop)
    finally:
        daemon.stop()


def watch(daemon: MpsDaemon, stop: threading.Event) -> None:
    """Returns when `stop` is set.

    Raises:
        UnavailableError: the daemon died.
    """
    while not stop.wait(LOOK_S):
        if not daemon.is_running:
            raise UnavailableError(
                f"the MPS daemon died; its clients lost their work: see {daemon.log_dir}"
            )


def end_leftover(record: Path) -> None:
    """Ends the daemon of a process that was killed: two could not serve one GPU's clients."""
    found = ProcessRecord.load(record)
    if found is not None:
        found.signal(signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(service_main(main))
