"""Sees to it that a gateway is the only one in its state folder and on its database."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from airan.core.errors import UnavailableError
from marketplace.store.hold import Hold

log = logging.getLogger(__name__)

_WAIT_S = 30.0
"""A gateway that was killed, or is being ended, may need a moment."""
_AGAIN_S = 0.2
_LOOK_S = 1.0
_EXIT_CODE = 70


async def lock_folder(state_dir: Path) -> int:
    """A descriptor whose end frees the folder: two gateways in it would both run its open jobs.

    Raises:
        UnavailableError: another gateway keeps it.
    """
    path = state_dir / "gateway.lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _WAIT_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= deadline_s:
                os.close(held)
                raise UnavailableError(
                    f"another gateway keeps {path}", remedy="stop it first"
                ) from None
            await asyncio.sleep(_AGAIN_S)
        else:
            return held


async def take_hold(url: str) -> Hold:
    """The database's, for this gateway alone; waits for one that is just ending.

    Raises:
        UnavailableError: another gateway goes on with it, or it cannot be reached.
        ConfigError: the URL is no database's.
    """
    hold = Hold(url)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _WAIT_S
    while True:
        try:
            await asyncio.to_thread(hold.take)
        except UnavailableError:
            if loop.time() >= deadline_s:
                await asyncio.to_thread(hold.close)
                raise
            await asyncio.sleep(_AGAIN_S)
        else:
            return hold


async def keep_hold(hold: Hold) -> None:
    """Looks now and then, until it is cancelled, and ends the process at once when another
    gateway took the database over while we were cut off from it: whatever we did would be done
    twice."""
    while await asyncio.to_thread(hold.keep):
        await asyncio.sleep(_LOOK_S)
    log.critical("another gateway has taken the database over: this one ends")
    os._exit(_EXIT_CODE)
