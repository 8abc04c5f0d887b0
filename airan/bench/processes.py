"""Servers that a bench starts as processes of their own, and ends with all their children."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from airan.core.errors import UnavailableError

_START_S = 120.0
_HTTP_OK = 200


@contextmanager
def running(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[int]:
    """Starts a server; its pid, once it answers.

    Raises:
        UnavailableError: it does not; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
        try:
            _wait(process, port, path, output.fileno())
            yield process.pid
        finally:
            children = tree(psutil.Process(process.pid)) if process.poll() is None else []
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20.0)
            for one in children:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _wait(process: subprocess.Popen[bytes], port: int, path: str, output: int) -> None:
    until_s = time.monotonic() + _START_S
    with httpx.Client(trust_env=False, timeout=2.0) as http:
        while time.monotonic() < until_s and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if http.get(f"http://127.0.0.1:{port}{path}").status_code == _HTTP_OK:
                    return
            time.sleep(0.2)
    os.lseek(output, 0, os.SEEK_SET)
    tail = os.read(output, 1 << 20)[-2000:].decode(errors="replace")
    raise UnavailableError(f"the server at port {port} does not answer: {tail}")


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
