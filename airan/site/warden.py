"""The warden: the process behind `airan up`. It starts the supervisor and brings it back.

Warden and supervisor watch each other, so any one of them can be killed. A warden that replaces a
killed one runs detached: the terminal is gone, but `airan down` still ends the site.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from airan.core.errors import PermanentError, UnavailableError
from airan.site import runtime as site_runtime
from airan.site.processes import ProcessLock, ProcessRecord, sweep
from airan.site.runtime import SiteRuntime
from airan.site.supervisor import spawn_detached, stop_file

POLL_S = 0.1
TAKES_LOCK_S = 3.0
MAX_FAILED_STARTS = 5
STOP_S = 25.0


class AlreadyRunningError(PermanentError):
    """A site already runs in this state folder."""


class Warden:
    """Holds a site up: at most one for each state folder."""

    def __init__(self, runtime: SiteRuntime, *, end_with_me: bool = False) -> None:
        self._runtime = runtime
        self._end_with_me = end_with_me
        self._lock = lock_of(runtime.config.state_dir)
        self._spawned_s = -TAKES_LOCK_S
        self._failed_starts = 0

    def start(self) -> None:
        """Starts the supervisor, which starts the services.

        Raises:
            AlreadyRunningError: another warden holds this state folder.
        """
        if not self._lock.acquire():
            raise AlreadyRunningError(
                f"a site already runs in {self._runtime.config.state_dir}",
                remedy="see it with `airan status`, or stop it with `airan down`",
            )
        ProcessRecord.of(os.getpid()).save(self._runtime.run_dir / "warden.json")
        self.keep()

    def keep(self) -> None:
        """Brings the supervisor back if it is gone; call it a few times a second.

        Raises:
            UnavailableError: it ends again and again before it takes its lock.
        """
        if ProcessLock(self._runtime.run_dir / "supervisor.lock").held():
            self._failed_starts = 0
            return
        # A supervisor that was just started has not taken its lock yet.
        if time.monotonic() - self._spawned_s < TAKES_LOCK_S:
            return
        self._failed_starts += 1
        if self._failed_starts > MAX_FAILED_STARTS:
            raise UnavailableError(
                f"the supervisor failed {MAX_FAILED_STARTS} times to start",
                remedy=f"see {self._runtime.log_dir / 'supervisor.log'}",
            )
        self._spawned_s = time.monotonic()
        arguments = ["--end-with-warden"] if self._end_with_me else []
        child = spawn_detached(self._runtime, "airan.site.supervisor", *arguments)
        threading.Thread(target=child.wait, daemon=True).start()

    def stop(self) -> None:
        """Ends the whole site; returns when no process of it is left."""
        stop_file(self._runtime.run_dir).touch()
        _await_end(self._runtime)
        stop_file(self._runtime.run_dir).unlink(missing_ok=True)
        self._lock.release()


def lock_of(state_dir: Path) -> ProcessLock:
    """The lock that a running site's warden holds."""
    return ProcessLock(site_runtime.run_dir(state_dir) / "warden.lock")


def running(state_dir: Path) -> bool:
    """True while a site runs in `state_dir`."""
    supervisor = ProcessLock(site_runtime.run_dir(state_dir) / "supervisor.lock")
    return lock_of(state_dir).held() or supervisor.held()


def stop_running(runtime: SiteRuntime) -> None:
    """Ends a site that another process started (`airan down`)."""
    stop_file(runtime.run_dir).touch()
    _await_end(runtime)
    deadline_s = time.monotonic() + STOP_S
    while lock_of(runtime.config.state_dir).held() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    sweep(runtime.instance)
    stop_file(runtime.run_dir).unlink(missing_ok=True)


def hold(runtime: SiteRuntime, warden: Warden, until: Callable[[], bool] = lambda: False) -> None:
    """Keeps a started site up until a signal, `until()` or `airan down`, then ends it.

    Signals are taken over only for the time of the call.
    """
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while not (stop.is_set() or until() or stop_file(runtime.run_dir).exists()):
            warden.keep()
            stop.wait(POLL_S)
    finally:
        warden.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_end(runtime: SiteRuntime) -> None:
    supervisor = ProcessLock(runtime.run_dir / "supervisor.lock")
    record = ProcessRecord.load(runtime.run_dir / "supervisor.json")
    if record is not None:
        record.signal(signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_S
    while supervisor.held() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    warden = ProcessRecord.load(runtime.run_dir / "warden.json")
    sweep(runtime.instance, keep=[warden.pid] if warden else [])


def main() -> int:
    """`python -m airan.site.warden STATE_DIR`: takes the place of a warden that was killed."""
    runtime = site_runtime.load(Path(sys.argv[1]))
    warden = Warden(runtime)
    try:
        warden.start()
    except AlreadyRunningError:
        return 0
    hold(runtime, warden)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
