"""Free TCP ports that are still free when they are used."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
"""Ray's workers have those below."""
_TRIES = 200


def bound_to_free_port(host: str) -> socket.socket:
    """A socket bound to a free port, for whoever closes it and uses the port a moment later.

    It lies below those that the kernel gives to connections and to whoever asks for any port, of
    which one is soon another's.

    Raises:
        OSError: there is none at this host.
    """
    for _ in range(_TRIES):
        listener = socket.socket()
        try:
            listener.bind((host, _drawn()))
        except OSError:
            listener.close()
            continue
        return listener
    listener = socket.socket()
    listener.bind((host, 0))
    return listener


def free_ports(n: int, host: str = "127.0.0.1") -> list[int]:
    """Ports, each another, as `bound_to_free_port` finds them.

    Raises:
        OSError: there are none at this host.
    """
    with ExitStack() as held:
        found = [held.enter_context(bound_to_free_port(host)) for _ in range(n)]
        return [int(one.getsockname()[1]) for one in found]


def _drawn() -> int:
    try:
        first = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    # Not of a seeded generator: two processes that start alike would find the same.
    return random.SystemRandom().randrange(_LOWEST, first) if first > _LOWEST else 0
