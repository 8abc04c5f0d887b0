"""Owns one MPS daemon: its folders, its start and end, and what its clients are told.

What MPS does not isolate: L2 cache and memory bandwidth are shared, and a fatal fault of one client
(an illegal address) can end every client of the same server. A client that is killed does not.

NVIDIA, Multi-Process Service: CUDA_MPS_PIPE_DIRECTORY, CUDA_MPS_LOG_DIRECTORY,
CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, CUDA_MPS_PINNED_DEVICE_MEM_LIMIT, CUDA_MPS_CLIENT_PRIORITY.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airan.core.errors import InvalidInputError, NotFoundError, UnavailableError

DAEMON = "nvidia-cuda-mps-control"
_VARIABLES = "CUDA_MPS_"
_MAX_PIPE_PATH = 90  # a socket's path, its name included, has at most 107 characters
_START_S = 10.0
_COMMAND_S = 10.0
_END_S = 10.0


@dataclass(frozen=True)
class MpsShare:
    """What a client may have; both are fixed at its start.

    Attributes:
        sm_percent: of the SMs, above 0 and at most 100; None: all.
        memory_mib: of the device's memory; None: no limit.
        is_lower: its kernels' blocks are put on the SMs behind those of other clients.

    Raises:
        InvalidInputError: out of range.
    """

    sm_percent: float | None = None
    memory_mib: int | None = None
    is_lower: bool = False

    def __post_init__(self) -> None:
        if self.sm_percent is not None and not 0 < self.sm_percent <= 100:
            raise InvalidInputError("sm_percent", f"must lie in (0, 100], got {self.sm_percent}")
        if self.memory_mib is not None and self.memory_mib < 1:
            raise InvalidInputError("memory_mib", f"must be at least 1, got {self.memory_mib}")

    def variables(self, device: int = 0) -> dict[str, str]:
        """What the client's environment says of it."""
        out = {}
        if self.sm_percent is not None:
            out["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = f"{self.sm_percent:g}"
        if self.memory_mib is not None:
            out["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"{device}={self.memory_mib}M"
        if self.is_lower:
            out["CUDA_MPS_CLIENT_PRIORITY"] = "1"
        return out


@dataclass(frozen=True)
class MpsFolders:
    """Where a daemon is reached, and where it logs."""

    pipe_dir: Path
    log_dir: Path

    def variables(self) -> dict[str, str]:
        """What a client's environment says of them."""
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe_dir),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log_dir),
        }


def check_folder(folder: Path) -> None:
    """Raises InvalidInputError if a daemon's sockets cannot lie in that folder."""
    if len(str(folder / "pipe")) > _MAX_PIPE_PATH:
        raise InvalidInputError(
            "folder", f"{folder} is too long for sockets", remedy="choose a shorter path"
        )


def without_mps(environment: Mapping[str, str], empty_dir: Path) -> dict[str, str]:
    """The environment of a process that is no MPS client, even if the host runs a daemon: it looks
    for one in `empty_dir`, where there is none."""
    kept = {key: value for key, value in environment.items() if not key.startswith(_VARIABLES)}
    return {**kept, "CUDA_MPS_PIPE_DIRECTORY": str(empty_dir)}


class MpsDaemon:
    """One daemon as a child process in the foreground, so that its end is noticed."""

    def __init__(self, folder: Path, binary: str = DAEMON) -> None:
        """`folder` takes its pipes and logs; `binary` is a name on PATH or a path.

        Raises:
            InvalidInputError: the folder's path is too long for sockets.
            NotFoundError: there is no such binary.
        """
        check_folder(folder)
        self.folders = MpsFolders(folder / "pipe", folder / "log")
        self.pipe_dir, self.log_dir = self.folders.pipe_dir, self.folders.log_dir
        found = shutil.which(binary)
        if found is None:
            raise NotFoundError(
                f"{binary} is not installed", remedy="install the NVIDIA driver's MPS control"
            )
        self._binary = found
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    @property
    def is_running(self) -> bool:
        """Whether the daemon lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the daemon's process; 0: it was not started."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it and waits until it answers; again is no error.

        Raises:
            UnavailableError: it ends or does not answer; with what it printed.
        """
        if self.is_running:
            return
        shutil.rmtree(self.pipe_dir, ignore_errors=True)  # a dead daemon's sockets
        for path in (self.pipe_dir, self.log_dir):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.log_dir / "daemon.out").open("wb") as out:
            process = subprocess.Popen(
                [self._binary, "-f"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._process = process
        until_s = time.monotonic() + _START_S
        problem = "it does not answer"
        while process.poll() is None and time.monotonic() < until_s:
            try:
                self.servers()
                return
            except UnavailableError as error:
                problem = error.message
            time.sleep(0.05)
        said = (self.log_dir / "daemon.out").read_text(errors="replace")[-1000:].strip()
        self.stop()
        raise UnavailableError(f"the MPS daemon did not start: {said or problem}")

    def keep(self) -> bool:
        """Starts it again if it has ended; whether it had. Its clients have to be started anew.

        Raises:
            UnavailableError: it does not start.
        """
        if self.is_running:
            return False
        self.start()
        self.restarts += 1
        return True

    def stop(self) -> None:
        """Ends it with its servers; again is no error."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            try:
                self.command("quit")
                process.wait(_END_S)
            except (UnavailableError, subprocess.TimeoutExpired):
                process.kill()
        process.wait()

    def client(self, environment: Mapping[str, str], share: MpsShare) -> dict[str, str]:
        """The environment of a client with that share."""
        kept = {key: value for key, value in environment.items() if not key.startswith(_VARIABLES)}
        return {**kept, **self.folders.variables(), **share.variables()}

    def servers(self) -> list[int]:
        """Pids of its servers: none before the first client.

        Raises:
            UnavailableError: it does not answer.
        """
        return _pids(self.command("get_server_list"))

    def clients(self, server: int) -> list[int]:
        """Pids of a server's clients.

        Raises:
            UnavailableError: it does not answer.
        """
        return _pids(self.command(f"get_client_list {server}"))

    def limit_new_clients(self, server: int, sm_percent: float) -> None:
        """Sets what clients that come from now on may have; the present ones keep theirs.

        Raises:
            InvalidInputError: out of range.
            UnavailableError: it does not answer.
        """
        MpsShare(sm_percent)
        self.command(f"set_active_thread_percentage {server} {sm_percent:g}")

    def terminate_client(self, server: int, pid: int) -> None:
        """Ends a client's work on the GPU without harm to the others.

        Raises:
            UnavailableError: it does not answer.
        """
        self.command(f"terminate_client {server} {pid}")

    def command(self, line: str) -> str:
        """What the daemon answers to a line of its control language.

        Raises:
            UnavailableError: it does not answer, or refuses.
        """
        try:
            answer = subprocess.run(
                [self._binary],
                input=line + "\n",
                env=self._environment(),
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"the MPS daemon does not answer {line!r}: {error}") from error
        if answer.returncode != 0:
            said = (answer.stderr or answer.stdout).strip()
            raise UnavailableError(f"the MPS daemon refused {line!r}: {said}")
        return answer.stdout

    def _environment(self) -> dict[str, str]:
        return self.client(os.environ, MpsShare())


def _pids(answer: str) -> list[int]:
    return [int(word) for word in answer.split() if word.isdecimal()]
