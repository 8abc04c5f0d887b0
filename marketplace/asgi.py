"""uvicorn inside a process that has its own signal handling."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from airan.core.errors import PortInUseError, UnavailableError

_STOP_S = 10.0


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signal handlers alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(
    host: str, port: int, purpose: str, config_key: str, *, shared: bool = False
) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one.

    `shared`: with all that are bound to it likewise, by processes of the same user; the kernel
    divides the connections between those that listen.

    Raises:
        PortInUseError: the port is taken; the message names it, its purpose and the key to change.
    """
    # asyncio switches Nagle's algorithm off only where it sees that a socket is TCP's; with it on,
    # an answer's body waits up to 40 ms for the client to acknowledge its head.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


class ServingThread:
    """An application served by a thread, in an event loop of its own."""

    def __init__(self, app: ASGIApp, *listeners: socket.socket) -> None:
        self._listeners = list(listeners)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=1, lifespan="on"
        )
        self._server = QuietServer(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Returns when it accepts connections.

        Raises:
            UnavailableError: the application does not start; the log has the cause.
        """
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            self.check()

    def check(self) -> None:
        """Raises UnavailableError when its thread has ended."""
        if not self._thread.is_alive():
            raise UnavailableError("the gateway's server has ended; its log says why")

    def stop(self) -> None:
        """Ends what is being answered, and returns when the application has shut down."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        self._server.run(sockets=self._listeners)
