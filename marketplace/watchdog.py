"""Kills a gateway that answers no more: until it is dead the kernel gives it new connections.

A look from outside: Ray Serve takes a replica for dead only when three checks in a row have run out
of time, and waits for ever for one that starts. A gateway says where it answers in a file named by
its process.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

log = logging.getLogger(__name__)

HUNG_S = 5.0
"""A gateway that answers nothing for so long hangs. One that is only slow takes a tenth of it on
two cores with as much other work again (docs/marketplace.md has the figures)."""
START_S = 60.0
"""One that has not said for so long where it answers hangs too: starting takes some 5 s."""
_PAUSE_S = 0.5
"""Between an answer and the next question."""
_LOOK_S = 0.25
_LOOK_FOR_NEW_S = 2.0
"""To look through all processes costs more."""
_HOST = "127.0.0.1"
_QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def note_gateway(folder: Path, pid: int, port: int) -> None:
    """Has the gateway of that process be watched, which answers at that port of 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{pid}.new"
    written.write_text(str(port), encoding="ascii")
    # At once: a half of a number would be another port.
    written.replace(folder / str(pid))


class Processes(Protocol):
    """Those that the watchdog is there for."""

    def owns(self, process: psutil.Process) -> bool:
        """Whether it may be killed."""

    def replicas(self) -> Collection[int]:
        """Pids of gateways, also of those that are just starting."""


class Watchdog:
    """Watches the gateways that a folder names; use it as a context, it has a thread of its own."""

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        hung_s: float = HUNG_S,
        start_s: float = START_S,
    ) -> None:
        """What an earlier life noted in the folder is forgotten."""
        self._folder = folder
        self._processes = processes
        self._hung_s, self._start_s = hung_s, start_s
        self._watched: dict[int, _Gateway] = {}
        self._starting: dict[int, float] = {}
        """For how long each has been seen without a note, by pid."""
        self._since_new_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        for noted in self._noted():
            noted.unlink(missing_ok=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before_s = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            now_s = time.monotonic()
            # Of a time in which this thread did not run either, nothing can be said of others.
            self._look(min(now_s - before_s, 2 * _LOOK_S))
            before_s = now_s
        for gateway in self._watched.values():
            gateway.hang_up()

    def _look(self, elapsed_s: float) -> None:
        for noted in self._noted():
            pid = int(noted.name)
            if not psutil.pid_exists(pid):
                noted.unlink(missing_ok=True)
                if (gone := self._watched.pop(pid, None)) is not None:
                    gone.hang_up()
            elif pid not in self._watched:
                self._watched[pid] = _Gateway(int(noted.read_text(encoding="ascii")))
        for pid, gateway in self._watched.items():
            gateway.look(elapsed_s)
            if gateway.silent_s >= self._hung_s:
                self._kill(pid, f"has not answered for {gateway.silent_s:.1f} s")
                gateway.hang_up()
        self._since_new_s += elapsed_s
        if self._since_new_s >= _LOOK_FOR_NEW_S:
            self._look_for_new(self._since_new_s)
            self._since_new_s = 0.0

    def _look_for_new(self, elapsed_s: float) -> None:
        new = [pid for pid in self._processes.replicas() if pid not in self._watched]
        self._starting = {pid: self._starting.get(pid, -elapsed_s) + elapsed_s for pid in new}
        for pid, waited_s in self._starting.items():
            if waited_s >= self._start_s:
                self._kill(pid, f"has not started within {waited_s:.0f} s")

    def _kill(self, pid: int, why: str) -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if self._processes.owns(process):
                log.error("gateway process %d %s: it is killed", pid, why)
                process.kill()

    def _noted(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [one for one in self._folder.iterdir() if one.name.isdecimal()]


class _Gateway:
    """One that is asked again and again, one question at a time."""

    def __init__(self, port: int) -> None:
        self._address = (_HOST, port)
        self._line: socket.socket | None = None
        self._asked = False
        self._rested_s = 0.0
        self.silent_s = 0.0
        """For how long the present question is without an answer."""

    def look(self, elapsed_s: float) -> None:
        """Asks, or sees whether there is an answer; `elapsed_s`: since the last look."""
        if self._line is None:
            self._rested_s += elapsed_s
            if self._rested_s < _PAUSE_S:
                return
            self._line = socket.socket()
            self._line.setblocking(False)
            # What comes of it shows when it is asked.
            self._line.connect_ex(self._address)
        try:
            self._ask(self._line)
        except OSError:
            # It has ended, or is about to: that is for Ray Serve to see to.
            self.hang_up()
            return
        if self._asked and select.select([self._line], [], [], 0)[0]:
            self.hang_up()
        else:
            self.silent_s += elapsed_s

    def hang_up(self) -> None:
        """Ends the question; the next one is asked after a pause."""
        if self._line is not None:
            self._line.close()
        self._line, self._asked = None, False
        self._rested_s = self.silent_s = 0.0

    def _ask(self, line: socket.socket) -> None:
        if not self._asked:
            # Of one whose queue of connections is full, this one is not taken on yet.
            with suppress(BlockingIOError):
                line.send(_QUESTION)
                self._asked = True
