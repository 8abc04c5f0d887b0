"""The running parts behind the HTTP interface, from start to stop."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Literal

from fastapi import Request

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.adapters.adapter import Adapter
from marketplace.billing.desk import rate_limit
from marketplace.chat import ChatRequest, parse_chat_request
from marketplace.completions import parse_request
from marketplace.dispatch import Dispatcher, ModelOffer
from marketplace.dispatch.scaling import ReplicaScaler
from marketplace.federation.travel import POLICY, VIA, Origin, Sending, origin_of
from marketplace.gateway.adapter_book import AdapterBook
from marketplace.gateway.alone import lock_folder, take_hold
from marketplace.gateway.door import Door
from marketplace.gateway.elsewhere import Elsewhere
from marketplace.gateway.errors import (
    model_not_found,
    not_allowed,
    not_ready,
)
from marketplace.gateway.function_runner import FunctionRunner
from marketplace.gateway.reading import read_json
from marketplace.gateway.settings import GatewaySettings
from marketplace.gateway.webhook_sender import WebhookSender
from marketplace.jobs import Job
from marketplace.meter import Meter
from marketplace.outbound import AllowedHosts
from marketplace.principal import Principal
from marketplace.siblings.company import Company
from marketplace.siblings.sibling import Report, Sibling
from marketplace.store.database import Database
from marketplace.store.ledger import unpack_ids
from marketplace.store.takeover import Inheritance

log = logging.getLogger(__name__)


class Runtime:
    """Database, meter and dispatcher of one gateway; use start() and stop()."""

    def __init__(
        self, settings: GatewaySettings, clock: Clock, meter: Meter, own_url: str = ""
    ) -> None:
        """`own_url`: where other gateways reach this one, and no other."""
        self.settings = settings
        self.own_url = own_url
        self.id = f"gw_{secrets.token_hex(8)}"
        """Of this life of it."""
        self.clock = clock
        self.meter = meter
        self.offers: dict[str, ModelOffer] = settings.offers
        self.adapters = AdapterBook(settings, clock)
        self.async_jobs: dict[str, Job] = {}
        self.function_hosts = AllowedHosts.of(settings.function_hosts)
        self.functions = FunctionRunner(self.function_hosts, clock, settings.max_waiting)
        self.webhook_hosts = AllowedHosts.of(settings.webhook_hosts)
        self.webhooks = WebhookSender(
            self.webhook_hosts, clock, settings.webhook_schedule_s, lambda: self.company.leads
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchers: set[asyncio.Task[None]] = set()
        self._lock_fd = -1
        self.door = Door(settings, clock)

    async def start(self) -> None:
        """Opens the database, follows the engines, and goes on with the stored jobs that nobody
        works on.

        Raises:
            UnavailableError: another gateway keeps the state folder, or an SQLite database, or too
                many a PostgreSQL one.
            ConfigError: the database cannot be opened.
        """
        url = self.settings.url_of_database
        self.settings.state_dir.mkdir(parents=True, exist_ok=True)
        shared = self.settings.gateways > 1
        self._lock_fd = await lock_folder(self.settings.state_dir, shared=shared)
        self._hold = await take_hold(url)
        self.db = Database(url, self.id)
        self.door.open(self.db)
        self.contents = self.db.contents(self.settings.state_dir / "files")
        await self.db.aside(self.contents.settle)
        self.elsewhere = Elsewhere(self.db, self.clock)
        seats = self.db.seats(self.id, self.own_url, list(self.offers))
        self.company = Company(seats, self.clock, self._report, self._meet)
        await self.company.take_seat()
        self.meter.load_ttft(await self.db.call(self.db.ledger.recent_ttft_ms))
        self.dispatcher = Dispatcher(
            self.db,
            self.offers,
            self.settings.engine_urls,
            self.meter,
            self.clock,
            max_waiting=self.settings.max_waiting,
            targets=self.settings.ttft_targets,
            externals=self.settings.external,
            federation=self.settings.federation,
            leads=lambda: self.company.leads,
        )
        await self.dispatcher.desk.refresh()
        await self.adapters.open(self.db, self.dispatcher)
        self.dispatcher.start()
        self._scaler = ReplicaScaler(self.settings.replica_urls, self.dispatcher.load, self.clock)
        self._scaler.start()
        await self.company.add_heir(self._go_on_with, self._end_as_asked)
        self.adapters.start()

    async def stop(self) -> None:
        """Cuts the streams and closes the database; open jobs wait there for the next start, or
        go on at another gateway."""
        self.db.relent()
        await self.adapters.stop()
        await self._scaler.stop()
        await self.dispatcher.stop()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, *self._tasks, return_exceptions=True)
        # What is still to be written is this gateway's; only then others go on.
        await self.db.flush()
        await self.company.stop()
        await asyncio.to_thread(self.db.close)
        if self._hold is not None:
            await asyncio.to_thread(self._hold.close)
        os.close(self._lock_fd)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs `work` beside the requests, whatever becomes of the request that asked for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def submit(self, job: Job) -> None:
        """Has the dispatcher take the job; if whoever asked leaves meanwhile, cancels it.

        Raises:
            CapacityError: too many wait, or a limit of the tenant's refuses it.
        """
        context = contextvars.copy_context()
        submitted = asyncio.create_task(self.dispatcher.submit(job), context=context)
        try:
            await asyncio.shield(submitted)
        except asyncio.CancelledError:
            # Half submitted it would stay open in the store, and nobody would end it.
            self.spawn(self._cancel_submitted(submitted, job))
            raise
        finally:
            # The desk notes it in the task's context, the edge reads it in this one.
            rate_limit.set(context.get(rate_limit))

    async def _cancel_submitted(self, submitted: asyncio.Task[None], job: Job) -> None:
        await asyncio.wait({submitted})
        if submitted.exception() is None:
            await self.dispatcher.cancel(job)

    async def new_job(self, request: Request) -> Job:
        """Checks key, body and model of a chat completion and makes a job of it.

        Raises:
            ApiError: 400, 401, 403, 404 or 413.
            InvalidInputError: a parameter is wrong or not supported.
        """
        started_s = self.clock.monotonic_s()
        principal = await self.door.authenticate(request)
        values = await read_json(request, self.settings.max_body_bytes)
        name = values.get("model") if isinstance(values, dict) else None
        self.check_model(principal, name)
        chat = parse_chat_request(values)
        job = Job("sync", principal, chat, self.clock.now_s(), started_s)
        job.adapter = self.adapter_of(principal, chat.model)
        job.origin = self.origin(request)
        return job

    def origin(self, request: Request) -> Origin:
        """Which sites the request came through, and how far it may go.

        Raises:
            InvalidInputError: its headers cannot be read.
            ForbiddenError: it must not be in this site's region.
        """
        via = request.headers.getlist(VIA)
        return self.origin_of(",".join(via) if via else None, request.headers.get(POLICY))

    def origin_of(self, via: str | None, policy: str | None) -> Origin:
        """The same of what stood in those headers.

        Raises:
            InvalidInputError: they cannot be read.
            ForbiddenError: it must not be in this site's region.
        """
        origin = origin_of([] if via is None else [via], policy)
        origin.check_here(self.settings.federation.region)
        return origin

    async def read_body(self, request: Request) -> tuple[Principal, dict[str, Any]]:
        """Checks the key, then reads the body, which must be a JSON object.

        Raises:
            ApiError: 400, 401, 403, 404 (unknown model) or 413.
        """
        principal = await self.door.authenticate(request)
        self.origin(request)
        values = await read_json(request, self.settings.max_body_bytes)
        if not isinstance(values, dict):
            raise InvalidInputError("body", "must be a JSON object")
        self.check_model(principal, values.get("model"))
        return principal, values

    def check_model(self, principal: Principal, name: Any) -> None:
        """Lets a model through that is on offer and that the key may use.

        Raises:
            ApiError: 403, 404, or 409: it is an adapter that cannot be used now.
        """
        if not isinstance(name, str):
            return
        adapter = self.adapter_of(principal, name)
        if not principal.may_use(name):
            raise not_allowed(f"use the model {name!r}")
        if adapter is not None and adapter.state != "ready":
            raise not_ready(adapter)

    def adapter_of(self, principal: Principal, name: str) -> Adapter | None:
        """The adapter that the tenant means; None: a model on offer.

        Raises:
            ApiError: 404: the tenant has neither.
        """
        if name in self.offers:
            return None
        adapter = self.adapters.find(principal.tenant_id, name)
        if adapter is None:
            raise model_not_found(name, list(self.offers))
        return adapter

    def models_of(self, tenant_id: str | None) -> list[str]:
        """What the tenant may name as a model now; None: what all may."""
        return [*self.offers, *(one.model for one in self.adapters.of_tenant(tenant_id))]

    def job_of(
        self, chat: ChatRequest, kind: Literal["sync", "async"], principal: Principal
    ) -> Job:
        """A job for a request that was checked already."""
        job = Job(kind, principal, chat, self.clock.now_s(), self.clock.monotonic_s())
        job.adapter = self.adapter_of(principal, chat.model)
        return job

    def keep(self, job: Job) -> None:
        """Has an asynchronous job found by its id while this process works on it."""
        self.async_jobs[job.id] = job
        watcher = asyncio.create_task(self._forget_when_done(job))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    def live_stats(self) -> dict[str, Any]:
        """What is going on now."""
        running, waiting = self.dispatcher.running, self.dispatcher.waiting
        engines = [
            {
                "name": engine.state.name,
                "url": engine.agent_url,
                "phase": engine.state.phase,
                "lease_id": engine.state.lease_id,
                "running": self.dispatcher.running_on(engine),
                "max_concurrent": engine.state.max_concurrent,
                "model": engine.state.model,
                "cold_starts": engine.state.n_cold_starts,
                "cold_start_s": engine.state.cold_start_s or None,
            }
            for engine in self.dispatcher.pool.engines
        ]
        return {
            "waiting": len(waiting),
            "running": len(running),
            "output_tokens": sum(job.n_output for job in (*running, *waiting)),
            "tokens_per_s": self.meter.tokens_per_s(self.clock.monotonic_s()),
            "engines": engines,
            "time_to_first_token_ms": self.meter.ttft_percentiles(),
        }

    def _report(self) -> Report:
        return replace(self.dispatcher.report(), stats=self.live_stats())

    def _meet(self, siblings: tuple[Sibling, ...], number: int) -> None:
        self.dispatcher.meet(siblings, number)

    async def _go_on_with(self, left: Inheritance) -> None:
        """Goes on with jobs that an earlier gateway, or another one, has left."""
        sent = await self.db.call(self.db.sendings.open, left.sent) if left.sent else {}
        while left.jobs:
            row = left.jobs[0]
            try:
                principal = await self.db.call(self.db.keys.principal, row["key_id"])
                await self._go_on(row, principal, sent.pop(row["id"], None))
            except UnavailableError:
                raise
            except Exception:
                # All others would wait for it, here and at whoever tries next.
                log.exception("job %s cannot be gone on with", row["id"])
            del left.jobs[0]
            left.sent[:] = [job_id for job_id in left.sent if job_id != row["id"]]
        for sending in sent.values():
            await self.dispatcher.account_for(sending)
            left.sent.remove(sending.job_id)

    async def _end_as_asked(self) -> None:
        """Ends jobs of this gateway whose clients told another one to."""
        for job_id in await self.db.call(self.db.ledger.asked_to_cancel):
            job = self.async_jobs.get(job_id)
            if job is not None:
                await self.dispatcher.cancel(job)
            else:
                self.spawn(self.functions.cancel(job_id))

    async def _go_on(self, row: dict[str, Any], principal: Principal, sent: Sending | None) -> None:
        chat = parse_request(json.loads(row["request"]))
        job = Job(
            "async",
            principal,
            chat,
            row["created_s"],
            # Its time to first token counts from the day it came in.
            self.clock.monotonic_s() - (self.clock.now_s() - row["created_s"]),
            id=row["id"],
        )
        # Whatever has that name now, it goes on with the adapter that it began with.
        job.adapter = self.adapters.find(principal.tenant_id, row["model"], row["created_s"])
        job.ttft_ms = row["ttft_ms"]
        job.restore(unpack_ids(row["generated_ids"]), row["text"] or "", row["preemptions"])
        self.keep(job)
        if sent is None:
            self.dispatcher.enqueue(job)
        else:
            job.counted_input = row["input_tokens"]
            await self.dispatcher.take_up(job, sent)

    async def _forget_when_done(self, job: Job) -> None:
        await job.done.wait()
        self.async_jobs.pop(job.id, None)
