"""Sees to it that a gateway is the only one in its state folder and on an SQLite database."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from airan.core.errors import UnavailableError
from marketplace.store.hold import Hold, is_sqlite

_WAIT_S = 30.0
"""A gateway that was killed, or is being ended, may need a moment."""
_AGAIN_S = 0.2


async def lock_folder(state_dir: Path, *, shared: bool = False) -> int:
    """A descriptor whose end frees the folder: two gateways in it would both run its open jobs.

    `shared`: with all that lock it likewise, because something else divides the jobs between them.

    Raises:
        UnavailableError: another gateway keeps it.
    """
    path = state_dir / "gateway.lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _WAIT_S
    while True:
        try:
            fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= deadline_s:
                os.close(held)
                raise UnavailableError(
                    f"another gateway keeps {path}", remedy="stop it first"
                ) from None
            await asyncio.sleep(_AGAIN_S)
        else:
            return held


async def take_hold(url: str) -> Hold | None:
    """An SQLite database, for this gateway alone; waits for one that is just ending. None:
    PostgreSQL, on which several may work.

    Raises:
        UnavailableError: another gateway goes on with it.
    """
    if not is_sqlite(url):
        return None
    hold = Hold(url)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _WAIT_S
    while True:
        try:
            hold.take()
        except UnavailableError:
            if loop.time() >= deadline_s:
                raise
            await asyncio.sleep(_AGAIN_S)
        else:
            return hold
