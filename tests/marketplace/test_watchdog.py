"""The watchdog: a gateway whose event loop answers no more is killed, a slow one is not."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from marketplace import watchdog as watchdog_module
from marketplace.watchdog import Watchdog, note_gateway
from tests import waiting

HUNG_S = 1.5
START_S = 3.0
SLOW_S = 0.4
SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(sys.argv[1]))
        self.send_response(200)
        self.end_headers()
        print(self.path, flush=True)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class Process:
    """A server that answers one question at a time, each after `pause_s`."""

    def __init__(self, folder: Path, pause_s: float = 0.0) -> None:
        command = [sys.executable, "-c", SERVER, str(pause_s)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        self._out = self.popen.stdout
        self.port = int(self._out.readline())
        self._folder = folder

    @property
    def is_noted(self) -> bool:
        return (self._folder / str(self.popen.pid)).exists()

    def note(self) -> None:
        note_gateway(self._folder, self.popen.pid, self.port)

    def answered(self, n: int) -> None:
        """Returns when it has answered so many questions more."""
        for _ in range(n):
            assert self._out.readline() == "/healthz\n"

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._out.close()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def begin(pause_s: float = 0.0, *, noted: bool = True) -> Process:
        process = Process(tmp_path / "gateways", pause_s)
        started.append(process)
        if noted:
            process.note()
        return process

    yield begin
    for process in started:
        process.end()


@dataclass
class Ours:
    """What the watchdog is there for; by default every process, of which none is starting."""

    owns: Callable[[psutil.Process], bool] = lambda _: True
    replicas: Callable[[], Collection[int]] = tuple


def watching(folder: Path, ours: Ours | None = None) -> Watchdog:
    return Watchdog(folder / "gateways", ours or Ours(), HUNG_S, START_S)


until = partial(waiting.until, within_s=20.0)


def test_one_that_is_stopped_is_killed_and_a_slow_one_is_not(start: Start, tmp_path: Path) -> None:
    with watching(tmp_path):
        stopped, slow, quick = start(), start(SLOW_S), start()
        for process in (stopped, slow, quick):
            process.answered(1)
        stopped.popen.send_signal(signal.SIGSTOP)
        assert stopped.popen.wait(20) == -signal.SIGKILL
        slow.answered(3)
        quick.answered(3)
        until(lambda: not stopped.is_noted)
        assert slow.popen.poll() is quick.popen.poll() is None


def test_one_whose_loop_hangs_is_killed(start: Start, tmp_path: Path) -> None:
    with watching(tmp_path):
        assert start(60.0).popen.wait(20) == -signal.SIGKILL


def test_one_that_hangs_in_its_start_is_killed(start: Start, tmp_path: Path) -> None:
    hanging, quick = start(noted=False), start(noted=False)
    ours = Ours(replicas=lambda: [hanging.popen.pid, quick.popen.pid])
    with watching(tmp_path, ours):
        quick.note()
        assert hanging.popen.wait(20) == -signal.SIGKILL
        quick.answered(1)
    assert quick.popen.poll() is None


def test_one_with_a_full_queue_of_connections_is_killed(start: Start, tmp_path: Path) -> None:
    process, lines = start(60.0, noted=False), []
    # More than the server's queue holds: the watchdog's own connection is not even made.
    for _ in range(20):
        line = socket.socket()
        line.setblocking(False)
        line.connect_ex(("127.0.0.1", process.port))
        lines.append(line)
    with watching(tmp_path):
        process.note()
        assert process.popen.wait(20) == -signal.SIGKILL
    for line in lines:
        line.close()


def test_what_is_not_ours_is_left_alone(start: Start, tmp_path: Path) -> None:
    asked = threading.Event()

    def owns(_: psutil.Process) -> bool:
        asked.set()
        return False

    with watching(tmp_path, Ours(owns)):
        process = start(60.0)
        assert asked.wait(20)
    assert process.popen.poll() is None


def test_what_an_earlier_life_noted_is_forgotten(start: Start, tmp_path: Path) -> None:
    process = start()
    watching(tmp_path)
    assert not process.is_noted


def test_time_in_which_the_watchdog_itself_stood_still_does_not_count(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(step=3600)
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    with Watchdog(tmp_path / "gateways", Ours(), 2 * HUNG_S):
        process = start(SLOW_S)
        process.answered(4)
        assert process.popen.poll() is None
