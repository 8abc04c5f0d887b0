"""What the supervisor did, and what services say of processes of their own, line by line in a file;
and what of it is told as the site's events."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

FILE = "supervisor.jsonl"


@dataclass(frozen=True)
class SupervisionEvent:
    """A service that ended by itself, or came back."""

    seq: int
    time_s: float
    severity: str
    kind: str
    """`service.ended` or `service.restarted`; of Layer 1's process on the GPU `worker.replaced`, or
    `worker.moved` out of MPS and back."""
    message: str


def write(log_dir: Path, service: str, what: str, kind: str = "", severity: str = "info") -> None:
    """Adds a line; only those with a kind are events."""
    line = {"time_s": time.time(), "service": service, "what": what}
    if kind:
        line |= {"kind": kind, "severity": severity}
    with (log_dir / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class SupervisionLog:
    """Reads the events of one run of the site; the file has those of earlier ones, too."""

    def __init__(self, log_dir: Path, since_s: float) -> None:
        self._path, self._since_s = log_dir / FILE, since_s

    def events(self, after_seq: int) -> list[SupervisionEvent]:
        """Events whose number, their line's end in the file, is above `after_seq`."""
        if not self._path.exists():
            return []
        found, seq = [], after_seq
        with self._path.open("rb") as file:
            file.seek(after_seq)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written just now
                seq += len(line)
                body = json.loads(line)
                if "kind" in body and body["time_s"] >= self._since_s:
                    message = f"{body['service']} {body['what']}"
                    known = (body["time_s"], body["severity"], body["kind"])
                    found.append(SupervisionEvent(seq, *known, message))
        return found
