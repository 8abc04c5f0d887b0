"""Broadcasting to watchers within this process, and the log of events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from airan.core.clock import Clock
from airan.core.errors import OutOfRangeError, UnavailableError
from orchestrator.store import Store
from orchestrator.views import Event

T = TypeVar("T")

_QUEUE_LIMIT = 1000
_PAGE = 200
_HISTORY_LIMIT = 4096
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LOG = logging.getLogger("airan.orchestrator")


class Subscription(Generic[T]):
    """One watcher's queue; filled by `Hub.publish`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[T] = asyncio.Queue(_QUEUE_LIMIT)
        self._overrun = False

    def offer(self, item: T) -> None:
        """Queues the item; a watcher too slow to follow is cut off rather than fed gaps."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._overrun = True

    async def next(self) -> T:
        """The next item.

        Raises:
            UnavailableError: items were lost; watch anew.
        """
        if self._overrun:
            raise UnavailableError("the watcher was too slow and missed items", remedy="watch anew")
        return await self._queue.get()


class Hub(Generic[T]):
    """Hands every published item to every subscriber."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription[T]] = set()

    def publish(self, item: T) -> None:
        """Never blocks."""
        for subscription in self._subscriptions:
            subscription.offer(item)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription[T]]:
        """A subscription to what is published while the context is open."""
        subscription: Subscription[T] = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)


class History(Generic[T]):
    """The newest items, numbered without a gap, for watchers that come back.

    Numbers start at the microsecond of `now_s`: one from before a restart is never mistaken for
    one of this run. Belongs to one event loop, like a `Hub`.
    """

    def __init__(self, now_s: float, limit: int = _HISTORY_LIMIT) -> None:
        self._items: deque[tuple[int, T]] = deque(maxlen=limit)
        self._first = self.newest = int(now_s * 1e6)

    def add(self, make: Callable[[int], T]) -> T:
        """Numbers an item and keeps it."""
        self.newest += 1
        item = make(self.newest)
        self._items.append((self.newest, item))
        return item

    def after(self, seq: int) -> list[T]:
        """The items with a number above `seq`, oldest first.

        Raises:
            OutOfRangeError: some of them are no longer known, or `seq` is of another run.
        """
        oldest = self._items[0][0] - 1 if self._items else self._first
        if not oldest <= seq <= self.newest:
            raise OutOfRangeError(
                f"what came after {seq} is not known (only after {oldest})",
                remedy="watch anew, without after_seq: a snapshot comes first",
            )
        return [item for number, item in self._items if number > seq]


class EventLog:
    """Stored, numbered events, to read back and to watch; also written to the process's log."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._hub: Hub[Event] = Hub()

    def now_s(self) -> float:
        """The log's clock, Unix seconds."""
        return self._clock.now_s()

    def record(self, kind: str, message: str, severity: str = "info") -> Event:
        """Stores the event, then tells the watchers."""
        event = self._store.add_event(self._clock.now_s(), severity, kind, message)
        _LOG.log(_LEVELS[severity], "%s: %s", kind, message)
        self._store.then(lambda: self._hub.publish(event))
        return event

    async def watch(self, after_seq: int) -> AsyncIterator[Event]:
        """Events with `seq > after_seq`: the stored ones, then live ones, each once."""
        with self._hub.subscribe() as live:
            last = after_seq
            while stored := self._store.events(last, _PAGE):
                for event in stored:
                    last = event.seq
                    yield event
            while True:
                event = await live.next()
                if event.seq > last:
                    last = event.seq
                    yield event
