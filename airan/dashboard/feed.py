"""One poller of the site, shared by every open page.

Every interval it takes a snapshot and the new events, keeps a ring of points for the charts, and
hands the messages to all subscribers. A new subscriber gets the history first.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from airan.site.series import COLUMNS, Point, point_of
from airan.site.snapshot import SiteEvent, SiteSnapshot

_PEAK_COLUMNS = tuple(COLUMNS.index(name) for name in ("p99_us", "max_us"))

MAX_HISTORY_POINTS = 900
MAX_EVENTS = 200
_MAX_QUEUED = 64


class Source(Protocol):
    """What the feed polls; `airan.site.snapshot_source.SnapshotSource` is one."""

    async def snapshot(self) -> SiteSnapshot:
        """The site now."""
        ...

    async def new_events(self) -> list[SiteEvent]:
        """Events since the last call."""
        ...


class Feed:
    """Polls `source` and spreads what it says as server-sent events."""

    def __init__(self, source: Source, interval_s: float, history_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._points: deque[Point] = deque(maxlen=max(1, round(history_s / interval_s)))
        self._events: deque[SiteEvent] = deque(maxlen=MAX_EVENTS)
        self._latest: SiteSnapshot | None = None
        self._polled_at_s: float | None = None
        self._subscribers: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    async def run(self) -> None:
        """Polls until cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            await self.poll()
            self._polled_at_s = loop.time()
            # A slow answer delays the next poll instead of piling polls up.
            next_s = max(next_s + self._interval_s, loop.time())
            await asyncio.sleep(next_s - loop.time())

    async def poll(self) -> None:
        """Takes one snapshot and the new events, and tells every subscriber."""
        snapshot = await self._source.snapshot()
        events = await self._source.new_events()
        self._latest = snapshot
        self._points.append(point_of(snapshot))
        self._events.extend(events)
        for event in events:
            self._publish(encode("event", event.to_dict()))
        self._publish(encode("snapshot", snapshot.to_dict()))

    def age_s(self) -> float | None:
        """Seconds since the last poll ended; None before the first."""
        if self._polled_at_s is None:
            return None
        return asyncio.get_running_loop().time() - self._polled_at_s

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events for one page: history, then messages until `close`.

        A page that reads too slowly is cut off; it reconnects and starts from the history.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            yield "retry: 1000\n" + encode("history", self.history())
            while not self._closed:
                message = await queue.get()
                if message is None:
                    return
                yield message
        finally:
            self._subscribers.discard(queue)

    def history(self) -> dict[str, Any]:
        """Everything a page needs at its start, the points column by column."""
        points = thin_out(list(self._points), MAX_HISTORY_POINTS)
        return {
            "columns": COLUMNS,
            "points": [list(column) for column in zip(*points, strict=True)],
            "events": [event.to_dict() for event in self._events],
            "snapshot": None if self._latest is None else self._latest.to_dict(),
        }

    def close(self) -> None:
        """Ends every stream, now and later. Idempotent."""
        self._closed = True
        for queue in self._subscribers:
            queue.put_nowait(None)

    def _publish(self, message: str) -> None:
        for queue in self._subscribers:
            queue.put_nowait(message if queue.qsize() < _MAX_QUEUED else None)


def encode(event: str, data: Any) -> str:
    """One server-sent event. JSON holds no bare newline, so one data line is enough."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def thin_out(points: list[Point], n_max: int) -> list[Point]:
    """At most `n_max` points: each stands for a run of them, with the run's worst latencies."""
    step = -(-len(points) // n_max)
    if step <= 1:
        return points
    return [_worst(points[start : start + step]) for start in range(0, len(points), step)]


def _worst(run: list[Point]) -> Point:
    merged = list(run[-1])
    for column in _PEAK_COLUMNS:
        known = [value for point in run if (value := point[column]) is not None]
        merged[column] = max(known, default=None)
    return tuple(merged)
