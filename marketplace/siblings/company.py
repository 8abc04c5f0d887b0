"""A gateway among those on its database: says how it stands, sees them come, and goes on with what
one that has gone has left."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from airan.core.clock import Clock
from airan.core.errors import AiranError
from marketplace.siblings.sibling import Report, Sibling
from marketplace.store.seats import SeatLostError, Seats
from marketplace.store.takeover import Inheritance

log = logging.getLogger(__name__)

_BEAT_S = 0.25
_EXIT_CODE = 70

Heir = Callable[[Inheritance], Awaitable[None]]
"""Goes on with its part of what a gateway has left, and takes it out of there: what fails is asked
again."""


class Company:
    """Runs in one event loop; use take_seat(), start(), rest() and stop()."""

    def __init__(
        self,
        seats: Seats,
        clock: Clock,
        report: Callable[[], Report],
        on_change: Callable[[tuple[Sibling, ...], int], None],
    ) -> None:
        """`report`: how this gateway stands. `on_change(siblings, own number)` hears of the others,
        several times a second."""
        self._seats = seats
        self._clock = clock
        self._report = report
        self._on_change = on_change
        self._heirs: list[Heir] = []
        self._left: list[tuple[Heir, Inheritance]] = []
        # Its own thread: where all others' are busy for long this gateway would be taken for dead.
        self._thread = ThreadPoolExecutor(1, "seats")
        self._every_beat: list[Callable[[], Awaitable[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self.siblings: tuple[Sibling, ...] = ()
        self.inherited = Inheritance()
        """What this gateway found when it took its seat."""

    @property
    def number(self) -> int:
        """Of this gateway's seat."""
        return self._seats.number

    @property
    def leads(self) -> bool:
        """Whether this one does what one of them is to do."""
        return all(self.number < one.number for one in self.siblings)

    async def take_seat(self) -> None:
        """Becomes one of them.

        Raises:
            UnavailableError: there are too many.
        """
        now_s, loop = self._clock.now_s(), asyncio.get_running_loop()
        self.inherited = await loop.run_in_executor(self._thread, self._seats.take, now_s)

    async def add_heir(
        self, heir: Heir, every_beat: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Has `heir` go on with its part, of what was found and of what comes later; `every_beat`
        is called several times a second where there can be other gateways."""
        await heir(self.inherited)
        self._heirs.append(heir)
        if every_beat is not None:
            self._every_beat.append(every_beat)

    def start(self) -> None:
        """Begins to look after the others, where there can be others."""
        if self._seats.are_several:
            self._task = asyncio.create_task(self._run())

    async def rest(self) -> None:
        """Takes nothing over any more: what would go on with it is about to stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def stop(self) -> None:
        """Leaves; what is open is the others' from now on."""
        await self.rest()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._seats.leave)
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            try:
                await self._beat()
            except SeatLostError:
                log.critical("another gateway has taken this one's work over: this one ends")
                os._exit(_EXIT_CODE)
            except AiranError as error:
                log.warning("the other gateways cannot be seen: %s", error)
            except Exception:
                # Without a beat this gateway would be taken for dead, and not know.
                log.exception("the other gateways cannot be seen")
            await asyncio.sleep(_BEAT_S)

    async def _beat(self) -> None:
        keep, report, now_s = self._seats.keep, self._report(), self._clock.now_s()
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(self._thread, keep, report, now_s)
        if (left := seen.inherited) is not None:
            self._left += [(heir, left) for heir in self._heirs]
        self.siblings = seen.siblings
        self._on_change(seen.siblings, self.number)
        while self._left:
            heir, left = self._left[0]
            await heir(left)
            del self._left[0]
        for each in self._every_beat:
            await each()
