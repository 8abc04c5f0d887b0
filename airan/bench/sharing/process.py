"""Starts a side, tells it what to do, and takes what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from airan.bench.processes import tree
from airan.bench.sharing.side import SideOrder
from airan.core.errors import UnavailableError

_TAIL = 1000
_MODULE = (sys.executable, "-m", "airan.bench.sharing.side")


class SideProcess:
    """One side, for as many runs as it is told of."""

    def __init__(
        self,
        order: SideOrder,
        environment: Mapping[str, str],
        folder: Path,
        command: Sequence[str] = _MODULE,
    ) -> None:
        """Starts it; `folder` takes its results and what it says on stderr."""
        self._name = order.side
        self._said = folder / f"{order.side}.err"
        self._got = b""
        path = os.pathsep.join(p for p in sys.path if p)
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(order)), str(folder)],
                env={**environment, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when it is ready to start.

        Raises:
            UnavailableError: it failed, ended or takes too long.
        """
        self._message(timeout_s, "to be ready")

    def tell(self, command: Mapping[str, Any]) -> None:
        """Tells it to do something.

        Raises:
            UnavailableError: it has ended.
        """
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
        except OSError as error:
            raise UnavailableError(f"the {self._name} side has ended{self._tail()}") from error

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Waits for what came of it.

        Raises:
            UnavailableError: it failed, ended or takes too long.
        """
        path = Path(self._message(timeout_s, "to answer")["result"])
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        return body

    def close(self) -> None:
        """Ends it and what it started; again is no error."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._process.poll() is None:
            children = tree(psutil.Process(self._process.pid))
            for one in children:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _message(self, timeout_s: float, what: str) -> dict[str, Any]:
        out = self._process.stdout
        if out is None:
            raise UnavailableError(f"the {self._name} side has no output")
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._got:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([out], [], [], left_s)[0]:
                raise UnavailableError(
                    f"the {self._name} side took longer than {timeout_s:.0f} s {what}{self._tail()}"
                )
            more = os.read(out.fileno(), 4096)
            if not more:
                code = self._process.wait()
                raise UnavailableError(f"the {self._name} side ended with {code}{self._tail()}")
            self._got += more
        line, self._got = self._got.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise UnavailableError(str(message["error"]))
        return message

    def _tail(self) -> str:
        said = self._said.read_text(encoding="utf-8", errors="replace").strip()
        return f": {said[-_TAIL:]}" if said else ""
