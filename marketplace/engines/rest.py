"""When an engine without work unloads its model, and how long it takes to come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from airan.core.clock import Clock
from airan.core.errors import AiranError

log = logging.getLogger(__name__)

_MIN_LOOK_S = 0.02


class Rest:
    """Has the engine go cold after `idle_s` without use (0: never), and warm up when wanted.

    `on_cool()` unloads the model, and returns False if it does not want to just now; `on_warm()`
    loads it and asks for a lease.
    """

    def __init__(
        self,
        idle_s: float,
        clock: Clock,
        on_cool: Callable[[], Awaitable[bool]],
        on_warm: Callable[[], Awaitable[None]],
    ) -> None:
        self.idle_s = idle_s
        self._clock = clock
        self._on_cool = on_cool
        self._on_warm = on_warm
        self._used_s = clock.monotonic_s()
        self._woken_s: float | None = None
        self._wanted = asyncio.Event()

    def use(self) -> None:
        """Somebody has, or soon will have, work for the engine."""
        self._used_s = self._clock.monotonic_s()
        self._wanted.set()

    def warm(self) -> float | None:
        """The engine serves; the seconds it took since it was wanted, None if it was not cold."""
        woken_s, self._woken_s = self._woken_s, None
        return None if woken_s is None else self._clock.monotonic_s() - woken_s

    @property
    def idle(self) -> bool:
        """Whether nobody has used it for so long."""
        return self._clock.monotonic_s() - self._used_s >= self.idle_s

    async def run(self) -> None:
        """Keeps going until cancelled."""
        if not self.idle_s:
            return
        self._used_s = self._clock.monotonic_s()
        while True:
            while not self.idle:
                left_s = self._used_s + self.idle_s - self._clock.monotonic_s()
                await asyncio.sleep(max(left_s, _MIN_LOOK_S))
            self._wanted.clear()
            if not await self._on_cool():
                await asyncio.sleep(_MIN_LOOK_S)
                continue
            log.info("unloaded after %g s without work", self.idle_s)
            await self._warm_up()

    async def _warm_up(self) -> None:
        while True:
            await self._wanted.wait()
            self._woken_s = self._used_s
            try:
                await self._on_warm()
            except AiranError as error:
                # Whoever waits asks again.
                log.warning("could not be loaded again: %s", error)
                self._wanted.clear()
                self._woken_s = None
            else:
                self._used_s = self._clock.monotonic_s()
                return
