"""uvicorn inside a process that has its own signal handling."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from airan.core.errors import PortInUseError


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signal handlers alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int, purpose: str, config_key: str) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one.

    Raises:
        PortInUseError: the port is taken; the message names it, its purpose and the key to change.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"port {port} for {purpose} cannot be had: {error.strerror}",
            remedy=f"set {config_key} to another port",
        ) from error
    listener.setblocking(False)
    return listener
