"""The private local Ray of one gateway: where its files lie, which processes it has, their end."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import psutil

from airan.core.errors import UnavailableError

log = logging.getLogger(__name__)

MARK = "AIRAN_RAY_SESSION"
"""Environment variable that every process of the session inherits; its value names the session."""

_REPLICA = "ray::ServeReplica"
_STOP_S = 5.0
_MAX_TEMP_DIR_CHARACTERS = 40


class RaySession:
    """Names the session of the gateway that keeps its state in `state_dir`."""

    def __init__(self, state_dir: Path, temp_dir: Path | None = None) -> None:
        self.name = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:12]
        self._sid_file = state_dir / "ray.sid"
        self.temp_dir = temp_dir or Path(tempfile.gettempdir()) / f"airan-{self.name}"
        if len(str(self.temp_dir)) > _MAX_TEMP_DIR_CHARACTERS:
            # Ray puts Unix sockets below it, and their paths may have 107 characters at most.
            self.temp_dir = Path("/tmp") / f"airan-{self.name}"

    def claim_temp_dir(self) -> None:
        """Makes the folder of Ray's sockets and logs, for this user alone.

        Raises:
            UnavailableError: somebody else's folder, or a link, lies there.
        """
        self.temp_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.temp_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UnavailableError(
                f"{self.temp_dir} is not this user's folder", remedy="remove it, or its link"
            )
        self.temp_dir.chmod(0o700)

    def remember(self, sid: int) -> None:
        """Notes the POSIX session that Ray's driver leads, for processes that lost their mark."""
        self._sid_file.write_text(str(sid), encoding="ascii")

    def processes(self) -> list[psutil.Process]:
        """The session's living processes, this one not counted."""
        sid = self._remembered_sid()
        return [one for one in psutil.process_iter() if self._owns(one, sid)]

    def replicas(self) -> list[int]:
        """Pids of Ray Serve's replicas, those that are just starting included."""
        return [one.pid for one in self.processes() if _title(one).startswith(_REPLICA)]

    def owns(self, process: psutil.Process) -> bool:
        """Whether that process is the session's, and lives."""
        return self._owns(process, self._remembered_sid())

    def _owns(self, process: psutil.Process, sid: int) -> bool:
        if process.pid == os.getpid():
            return False
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get(MARK) == self.name:
                return True
            # Ray's agents write a new title over their environment, and the mark with it.
            return os.getsid(process.pid) == sid and "".join(process.cmdline()).startswith("ray::")
        except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            return False

    def _remembered_sid(self) -> int:
        try:
            return int(self._sid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return -1

    def clean(self) -> int:
        """Kills what is left of the session and removes its files; returns how many were left."""
        deadline_s = time.monotonic() + _STOP_S
        n_killed = 0
        # A dying raylet may still start a worker, so look until none is left.
        while (left := self.processes()) and time.monotonic() < deadline_s:
            for process in left:
                try:
                    process.kill()
                    n_killed += 1
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=1.0)
        if left:
            log.error("processes of Ray session %s do not end: %s", self.name, left)
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        return n_killed


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
