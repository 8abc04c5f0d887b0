"""Sees to it that a gateway is the only one on its database."""

from __future__ import annotations

import asyncio
import logging
import os

from airan.core.errors import UnavailableError
from marketplace.store.hold import Hold

log = logging.getLogger(__name__)

_WAIT_S = 30.0
"""A gateway that was killed frees the database when its server notices."""
_AGAIN_S = 0.2
_LOOK_S = 1.0
_EXIT_CODE = 70


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
