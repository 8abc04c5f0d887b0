"""Starts a side, tells it to go, and takes what it wrote."""

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
from airan.bench.sharing.side import READY, SideOrder
from airan.core.errors import UnavailableError

_TAIL = 1000
_MODULE = (sys.executable, "-m", "airan.bench.sharing.side")


class SideProcess:
    """One side of a run."""

    def __init__(
        self,
        order: SideOrder,
        environment: Mapping[str, str],
        folder: Path,
        command: Sequence[str] = _MODULE,
    ) -> None:
        """Starts it; `folder` takes its result and what it says on stderr."""
        self._name = order.side
        self._result = folder / f"{order.side}.json"
        self._said = folder / f"{order.side}.err"
        self._result.unlink(missing_ok=True)
        path = os.pathsep.join(p for p in sys.path if p)
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(order)), str(self._result)],
                env={**environment, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when it is ready to start.

        Raises:
            UnavailableError: it ended instead, or takes too long.
        """
        out = self._process.stdout
        if out is None:
            raise UnavailableError(f"the {self._name} side has no output")
        until_s, got = time.monotonic() + timeout_s, b""
        while f"{READY}\n".encode() not in got:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([out], [], [], left_s)[0]:
                raise UnavailableError(
                    f"the {self._name} side was not ready within {timeout_s:.0f} s{self._tail()}"
                )
            more = os.read(out.fileno(), 4096)
            if not more:
                self.result(timeout_s)
                raise UnavailableError(f"the {self._name} side ended before it began")
            got += more

    def go(self) -> None:
        """Lets it start.

        Raises:
            UnavailableError: it has ended.
        """
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(b"go\n")
                self._process.stdin.flush()
        except OSError as error:
            raise UnavailableError(f"the {self._name} side has ended{self._tail()}") from error

    def end_input(self) -> None:
        """Tells the AI side to end."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Waits for its end; what it wrote.

        Raises:
            UnavailableError: it failed, wrote nothing or takes too long.
        """
        try:
            self._process.wait(timeout_s)
            body: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(
                f"the {self._name} side did not end within {timeout_s:.0f} s{self._tail()}"
            ) from error
        except (OSError, ValueError) as error:
            code = self._process.poll()
            raise UnavailableError(
                f"the {self._name} side ended with {code} and no result{self._tail()}"
            ) from error
        if "error" in body:
            raise UnavailableError(str(body["error"]))
        return body

    def close(self) -> None:
        """Ends it and what it started; again is no error."""
        self.end_input()
        if self._process.poll() is None:
            children = tree(psutil.Process(self._process.pid))
            for one in children:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tail(self) -> str:
        said = self._said.read_text(encoding="utf-8", errors="replace").strip()
        return f": {said[-_TAIL:]}" if said else ""
