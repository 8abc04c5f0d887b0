"""Processes that outlive whoever started them: pid records, locks that vanish with their holder.

A service is found again after its parent was killed by its pid *and* its start time, so a pid the
kernel has given to somebody else is never taken for ours. Locks are flocks: the kernel drops them
at the holder's death, whatever the cause.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

INSTANCE_VARIABLE = "AIRAN_SITE_INSTANCE"


@dataclass(frozen=True)
class ProcessRecord:
    """A process named so that it can be recognised later."""

    pid: int
    create_time_s: float

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Raises psutil.NoSuchProcess when it is already gone."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """True while this very process runs; a zombie is dead."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.create_time_s) < 0.05
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process still lives."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"pid": self.pid, "create_time_s": self.create_time_s}))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> ProcessRecord | None:
        """None when there is no readable record."""
        try:
            body = json.loads(path.read_text())
            return cls(int(body["pid"]), float(body["create_time_s"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class ProcessLock:
    """A lock file held by at most one process; the kernel releases it when the holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock if nobody holds it; never waits."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def held(self) -> bool:
        """True while any process, this one included, holds the lock."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def members(instance: str) -> list[psutil.Process]:
    """Every living process of the site's run `instance`, this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(INSTANCE_VARIABLE) == instance:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def terminate(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """Asks the processes to end, and kills those that still live after `grace_s` seconds."""
    remaining = list(processes)
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, remaining = psutil.wait_procs(remaining, timeout=grace_s)
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(remaining, timeout=5.0)


def sweep(instance: str, grace_s: float = 0.0, *, keep: Iterable[int] = ()) -> int:
    """Ends every process left of the run `instance`; returns how many there were."""
    kept = set(keep)
    total = 0
    deadline_s = time.monotonic() + grace_s + 10.0
    while time.monotonic() < deadline_s:
        left = [process for process in members(instance) if process.pid not in kept]
        if not left:
            break
        total += len(left)
        terminate(left, grace_s)
    return total
