"""Faults that a simulated node is told to have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from airan.core.errors import UnavailableError


@dataclass
class Faults:
    """Faults to inject: which create and destroy calls (counted from 1) fail or hang, and when.

    `before`: nothing was done. `after`: the change was made, but the call still fails. `hanging`:
    the call blocks before anything is done, until `release` lets it go on; after `timeout_s`
    (wall seconds) it fails as a driver's time-out does.
    """

    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    calls: int = 0
    hanging: set[int] = field(default_factory=set)
    timeout_s: float = 30.0
    _released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def count(self) -> int:
        """The number of this call."""
        self.calls += 1
        return self.calls

    def release(self) -> None:
        """Lets every hanging call go on; those that hang later need another release."""
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def hang(self, number: int) -> None:
        """Returns at once, or once the hanging call is released.

        Raises:
            UnavailableError: it was not released in time.
        """
        if number not in self.hanging:
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._released.wait()
        except TimeoutError as error:
            raise UnavailableError(
                f"driver call {number} has not answered within {self.timeout_s:g} s (simulated)"
            ) from error

    @contextmanager
    def around(self, number: int) -> Iterator[None]:
        """A change that fails before or after it is made, if it is told to.

        Raises:
            UnavailableError: it fails.
        """
        if number in self.before:
            raise UnavailableError(f"driver call {number} failed (injected)")
        yield
        if number in self.after:
            raise UnavailableError(f"driver call {number} failed after the change (injected)")
