"""Sends what is in the outbox: at least once each, by the schedule, and never to inside hosts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime

import aiohttp

from airan.core.clock import Clock
from airan.core.errors import AiranError
from marketplace import outbound
from marketplace.store.database import Database
from marketplace.store.webhooks import Attempt, Delivery
from marketplace.webhooks import signature_headers

log = logging.getLogger(__name__)

_POLL_S = 1.0
_AT_ONCE = 64
_PER_TENANT = 8
"""A tenant whose receivers hang does not hold up the others'."""
_TIMEOUT = aiohttp.ClientTimeout(total=20.0, sock_connect=5.0)
_JITTER = 0.1
_BUSY = frozenset({429, 502, 504})
_BUSY_PAUSE_S = 60.0
_MAX_PAUSE_S = 86_400.0
_MAX_ERROR = 300


class WebhookSender:
    """Runs in one event loop; use start() and stop()."""

    def __init__(
        self,
        hosts: outbound.AllowedHosts,
        clock: Clock,
        schedule_s: Sequence[float],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this gateway sends; of several on one database one does."""
        self._leads = leads
        self._hosts = hosts
        self._clock = clock
        self._schedule_s = tuple(schedule_s)
        self._sending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self, db: Database) -> None:
        """Begins to send, with what an earlier gateway left."""
        self._db = db
        self._http = outbound.session(self._hosts)
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Breaks off what is being sent: the next start sends it again."""
        tasks = list(self._sending.values())
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()

    def wake(self) -> None:
        """Has the outbox looked at now, and not within a second."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._leads():
                    await self._begin_due()
            except AiranError:
                log.exception("the outbox of webhooks cannot be read")
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _begin_due(self) -> None:
        limit, now_s = _AT_ONCE + len(self._sending), self._clock.now_s()
        for delivery in await self._db.call(self._db.webhooks.due, now_s, limit, _PER_TENANT):
            self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        name = (delivery.endpoint_id, delivery.message_id)
        if name in self._sending or len(self._sending) >= _AT_ONCE:
            return
        task = self._sending[name] = asyncio.create_task(self._send(delivery))
        task.add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: tuple[str, str]) -> None:
        del self._sending[name]
        # There may be more than fitted beside each other.
        self._wake.set()

    async def _send(self, delivery: Delivery) -> None:
        sent_s, began_s = self._clock.now_s(), self._clock.monotonic_s()
        status, error, asked_s = None, None, None
        headers = signature_headers(delivery.message_id, sent_s, delivery.body, delivery.secrets)
        headers |= {"content-type": "application/json", "user-agent": "airan-webhooks"}
        try:
            # The operator's list may be shorter than it was when the endpoint was made.
            self._hosts.check_public("url", delivery.url)
            async with self._http.post(
                delivery.url,
                data=delivery.body.encode(),
                headers=headers,
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                status = answer.status
                asked_s = _retry_after_s(answer.headers.get("Retry-After"), sent_s)
        except (aiohttp.ClientError, TimeoutError, OSError, AiranError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:_MAX_ERROR]
        took_ms = (self._clock.monotonic_s() - began_s) * 1e3
        pause_s = self._pause_s(delivery.attempts, status, asked_s)
        attempt = Attempt(sent_s, took_ms, status, error, pause_s)
        try:
            await self._db.call(self._db.webhooks.record, delivery, attempt)
        except AiranError:
            log.exception("what came of webhook %s is not stored", delivery.message_id)
            # It stays due; without a pause it would be sent again and again.
            await asyncio.sleep(_POLL_S)
        if not attempt.delivered and pause_s is not None and pause_s < _POLL_S:
            asyncio.get_running_loop().call_later(pause_s, self._wake.set)

    def _pause_s(self, made: int, status: int | None, asked_s: float | None) -> float | None:
        """How long to wait after attempt number `made` (from 0) failed; None: give up."""
        if made >= len(self._schedule_s):
            return None
        # Spread, so that what failed together does not come again together.
        pause_s = self._schedule_s[made] * random.uniform(1.0, 1.0 + _JITTER)
        if status in _BUSY:
            pause_s = max(pause_s, _BUSY_PAUSE_S)
        return max(pause_s, min(asked_s or 0.0, _MAX_PAUSE_S))


def _retry_after_s(text: str | None, now_s: float) -> float | None:
    """Seconds from now; the header has seconds or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except ValueError:
        return None
