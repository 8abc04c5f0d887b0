"""The `mps` process: `python -m airan.site.mps STATE_DIR`, which owns the GPU's MPS daemon.

The daemon has pipes and logs of its own, so that no other daemon of the host is touched. When it
dies its servers are killed, which nobody could reach any more and whose clients would take turns on
the GPU with those of the next; then this process ends, and the supervisor starts it anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path

import psutil

from airan.core.errors import UnavailableError
from airan.site.main import service_main, stop_event
from airan.site.processes import ProcessRecord
from airan.site.runtime import SiteRuntime
from airan.site.services import MPS, daemon_record, tell_ready
from orchestrator.drivers.environment import folders_in
from orchestrator.drivers.mps import MpsDaemon

log = logging.getLogger("airan.mps")

LOOK_S = 0.02
"""The sooner the servers of a dead daemon are gone, the sooner Layer 1 is alone on the GPU."""
NOTE_S = 1.0
"""How often servers are looked for while it lives."""


def main(runtime: SiteRuntime) -> None:
    """Keeps the daemon until stopped.

    Raises:
        UnavailableError: the daemon died, or does not start.
    """
    stop = stop_event()
    record = daemon_record(runtime)
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
        UnavailableError: the daemon died; its servers are ended.
    """
    servers: set[ProcessRecord] = set()
    note_at_s = 0.0
    while not stop.wait(LOOK_S):
        if not daemon.is_running:
            for server in servers | servers_of(daemon.pid):
                server.signal(signal.SIGKILL)
            raise UnavailableError(
                f"the MPS daemon died; its clients lost their work: see {daemon.log_dir}"
            )
        if time.monotonic() >= note_at_s:
            servers = servers_of(daemon.pid)
            note_at_s = time.monotonic() + NOTE_S


def servers_of(daemon_pid: int) -> set[ProcessRecord]:
    """What the daemon has started: its children, and who is left in the session that it led."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_child = process.ppid() == daemon_pid
            if process.pid != daemon_pid and (is_child or os.getsid(process.pid) == daemon_pid):
                found.add(ProcessRecord.of(process.pid))
    return found


def end_leftover(record: Path) -> None:
    """Ends the daemon of a process that was killed, and its servers: two daemons could not serve
    one GPU's clients."""
    found = ProcessRecord.load(record)
    if found is None or (psutil.pid_exists(found.pid) and not found.alive()):
        return
    for one in (*servers_of(found.pid), found):
        one.signal(signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(service_main(main))
