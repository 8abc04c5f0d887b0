"""Runs invocations of containers: stored first, called at least once, ended and billed once.

queued -> running -> completed | failed. The container gets the invocation's id as Idempotency-Key,
the same at every attempt: after a crash, or an answer that was lost on its way, it is called again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field

import aiohttp

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError, UnavailableError
from marketplace import outbound
from marketplace.billing.desk import NOT_ACCEPTED
from marketplace.functions import Function
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.siblings.company import Company
from marketplace.store.database import Database
from marketplace.store.functions import Invocation, InvocationResult
from marketplace.store.ledger import Outcome
from marketplace.store.takeover import Inheritance

log = logging.getLogger(__name__)

_AT_ONCE = 64
_MAX_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_HEALTH_TIMEOUT_S = 2.0
_HEALTH_KEPT_S = 5.0
_CONNECT_S = 5.0
_RETRIED = frozenset({429, 500, 502, 503, 504})
_SHOWN = 200


class _PassingError(Exception):
    """This attempt failed, another may not."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class _Call:
    invocation: Invocation
    running: bool = False
    ending: bool = False
    """Its end is decided: cancelling it changes nothing any more."""
    cancelled: bool = False
    task: asyncio.Task[None] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class FunctionRunner:
    """Runs in one event loop; use start() and stop()."""

    def __init__(self, hosts: outbound.AllowedHosts, clock: Clock, max_waiting: int) -> None:
        self._hosts = hosts
        self._clock = clock
        self._max_waiting = max_waiting
        self._calls: dict[str, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._health: dict[str, tuple[float, bool]] = {}

    async def start(self, db: Database, company: Company) -> None:
        """Goes on with the invocations that earlier gateways, or other ones, have left."""
        self._db = db
        self._http = outbound.session(self._hosts)
        await company.add_heir(self._go_on_with)

    async def stop(self) -> None:
        """Breaks the calls off; their invocations stay open in the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    async def accept(
        self, function: Function, principal: Principal, job_id: str, body: bytes
    ) -> None:
        """Takes responsibility for an invocation, which is stored when this returns.

        Raises:
            CapacityError: too many are open, or a limit of the tenant's refuses it.
            UnavailableError: the database failed; whatever it has of the invocation is not run.
        """
        if len(self._calls) >= self._max_waiting:
            raise CapacityError(
                f"{len(self._calls)} invocations are open already", remedy="try again later"
            )
        accept, now_s = self._db.functions.accept, self._clock.now_s()
        try:
            await self._db.call(accept, job_id, principal, function, body, now_s)
        except UnavailableError:
            self._withdraw(principal.tenant_id, job_id, now_s)
            raise
        self._begin(Invocation(job_id, principal.tenant_id, function, body, 0, None))

    async def cancel(self, job_id: str) -> None:
        """Ends an invocation that is open here, and its call of the container, unbilled."""
        call = self._calls.get(job_id)
        if call is None:
            return
        if not call.ending and not call.cancelled and call.task is not None:
            call.cancelled = True
            call.task.cancel()
        await call.done.wait()

    def has(self, job_id: str) -> bool:
        """Whether it is open here."""
        return job_id in self._calls

    def is_running(self, job_id: str) -> bool:
        """Whether a container works on it now."""
        call = self._calls.get(job_id)
        return call is not None and call.running

    def position(self, job_id: str) -> int:
        """Its place among those of its function that wait, from 1; 0: it waits no more."""
        call = self._calls.get(job_id)
        if call is None or call.running:
            return 0
        waiting = self._waiting(call.invocation.function.version_id)
        return waiting.index(job_id) + 1

    def depth(self, version_id: str) -> int:
        """How many invocations of that version wait."""
        return len(self._waiting(version_id))

    async def wait(self, job_id: str, timeout_s: float) -> None:
        """Waits until it ended, or until the time is over."""
        call = self._calls.get(job_id)
        if call is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await call.done.wait()
            except TimeoutError:
                return

    async def healthy(self, function: Function) -> bool:
        """Whether the container answers its health check, at most some seconds ago."""
        now_s = self._clock.monotonic_s()
        known = self._health.get(function.version_id)
        if known is not None and now_s - known[0] < _HEALTH_KEPT_S:
            return known[1]
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        try:
            self._hosts.check_listed("url", function.health_url)
            async with self._http.get(
                function.health_url, timeout=timeout, allow_redirects=False
            ) as answer:
                well = answer.status < 300
        except (aiohttp.ClientError, OSError, AiranError):
            well = False
        self._health[function.version_id] = (now_s, well)
        return well

    async def _go_on_with(self, left: Inheritance) -> None:
        if left.invocations:
            open_ones = self._db.functions.open_invocations
            for invocation in await self._db.call(open_ones, left.invocations):
                self._begin(invocation)
            left.invocations.clear()

    def _waiting(self, version_id: str) -> list[str]:
        return [
            job_id
            for job_id, call in self._calls.items()
            if not call.running and call.invocation.function.version_id == version_id
        ]

    def _withdraw(self, tenant_id: str, job_id: str, now_s: float) -> None:
        """It may be stored, though its client was told that it is not."""
        finish, again = self._db.ledger.finish, self._db.ledger.finish_again
        price = Price(0, 0)
        self._db.insist_later(tenant_id, finish, again, job_id, NOT_ACCEPTED, price, now_s)

    def _begin(self, invocation: Invocation) -> None:
        call = self._calls[invocation.job_id] = _Call(invocation)
        task = call.task = asyncio.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: _Call) -> None:
        invocation = call.invocation
        try:
            outcome = await self._outcome(call)
            call.ending = True
            # Tokens cost nothing here: an invocation does.
            price = Price(0, 0, invocation.function.price_micro_usd)
            ledger, now_s = self._db.ledger, self._clock.now_s()
            finish, again = ledger.finish, ledger.finish_again
            whose, job_id = invocation.tenant_id, invocation.job_id
            await self._db.insist(whose, finish, again, job_id, outcome, price, now_s)
        except AiranError:
            # It stays open in the store, and the next start takes it up.
            log.exception("invocation %s could not be stored", invocation.job_id)
        finally:
            del self._calls[invocation.job_id]
            call.done.set()

    async def _outcome(self, call: _Call) -> Outcome:
        if call.invocation.status is not None:
            return Outcome("completed", 0, 0)
        try:
            return await self._attempts(call)
        except asyncio.CancelledError:
            # Without `cancelled` it is this gateway that stops: the next one goes on.
            if not call.cancelled:
                raise
            return Outcome("cancelled", 0, 0)

    async def _attempts(self, call: _Call) -> Outcome:
        made = call.invocation.attempts
        while True:
            try:
                async with self._places:
                    call.running = True
                    try:
                        return await self._attempt(call.invocation)
                    finally:
                        call.running = False
            except _PassingError as error:
                made += 1
                if made >= _MAX_ATTEMPTS:
                    return _failed("function_unavailable", f"{error}, {made} times")
                pause_s = min(_FIRST_PAUSE_S * 2**made, _MAX_PAUSE_S) * random.uniform(0.5, 1.0)
                await asyncio.sleep(min(error.retry_after_s or pause_s, _MAX_PAUSE_S))

    async def _attempt(self, invocation: Invocation) -> Outcome:
        function, job_id, whose = invocation.function, invocation.job_id, invocation.tenant_id
        try:
            # The operator's list may be shorter than it was when the function was made.
            self._hosts.check_listed("url", function.inference_url)
        except AiranError as error:
            return _failed("function_refused", str(error))
        begin, keep = self._db.functions.begin_attempt, self._db.functions.keep_result
        await self._db.insist(whose, begin, begin, job_id, self._clock.now_s())
        try:
            result = await self._ask(invocation)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            what = f"the function {function.name!r} did not answer"
            raise _PassingError(f"{what}: {type(error).__name__}") from error
        if result is None:
            limit = f"{function.max_response_bytes} bytes"
            return _failed("result_too_large", f"the function's answer is longer than {limit}")
        if result.status >= 300:
            shown = result.body[:_SHOWN].decode(errors="replace")
            text = f"the function {function.name!r} answered {result.status}: {shown}"
            return _failed("function_refused", text)
        await self._db.insist(whose, keep, keep, job_id, result)
        return Outcome("completed", 0, 0)

    async def _ask(self, invocation: Invocation) -> InvocationResult | None:
        """The container's answer; None: it is too long."""
        function = invocation.function
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": invocation.job_id,
            "NVCF-REQID": invocation.job_id,
            "NVCF-FUNCTION-ID": function.id,
            "NVCF-FUNCTION-VERSION-ID": function.version_id,
        }
        timeout = aiohttp.ClientTimeout(total=function.timeout_s, sock_connect=_CONNECT_S)
        async with self._http.post(
            function.inference_url,
            data=invocation.body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as answer:
            if answer.status in _RETRIED:
                text = f"the function {function.name!r} answered {answer.status}"
                raise _PassingError(text, _seconds(answer.headers.get("Retry-After")))
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if len(body) > function.max_response_bytes:
                    return None
            kind = answer.headers.get("Content-Type", "application/octet-stream")[:128]
            return InvocationResult(answer.status, kind, bytes(body))


def _failed(code: str, message: str) -> Outcome:
    return Outcome("failed", 0, 0, error_code=code, error_message=message)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
