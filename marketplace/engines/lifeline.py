"""Runs a command in a process group that ends with the process at the other end of a pipe.

Called as `python -m marketplace.engines.lifeline FD COMMAND ...`; FD is the pipe's end to read
from, of which nobody else holds the other end. Ends with the command's status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(fd: int, command: list[str]) -> int:
    """Runs the command; kills the whole group when the pipe ends."""

    def watch() -> None:
        os.read(fd, 1)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    process = subprocess.Popen(command)
    threading.Thread(target=watch, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
