"""The servicer of `airan.invocation.v1`: messages to invocations and back."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from airan.core.errors import AiranError, InvalidInputError
from marketplace.federation.travel import POLICY, VIA, Origin
from marketplace.functions import Function
from marketplace.gateway.errors import ApiError, from_outcome
from marketplace.gateway.invocations import Invocations, Row, error_of, is_open
from marketplace.gateway.reading import parse_json
from marketplace.gateway.runtime import Runtime
from marketplace.grpc_api import invocation_pb2 as pb
from marketplace.grpc_api import invocation_pb2_grpc as rpc
from marketplace.grpc_api.errors import status_of
from marketplace.jobs import Job, Waiting
from marketplace.principal import Principal
from marketplace.store.ledger import Outcome

MAX_WAIT_S = 300.0
_TELL_S = 2.0
"""How often a stream tells that its invocation waits."""
_PIECE_BYTES = 64 << 10
_NAMES = uuid.UUID("c2a07a63-6f5c-4a35-9a0a-8f0c5b0b5f0e")
_STATES = {
    "queued": pb.INVOCATION_STATE_QUEUED,
    "running": pb.INVOCATION_STATE_RUNNING,
    "preempted": pb.INVOCATION_STATE_QUEUED,
    "completed": pb.INVOCATION_STATE_COMPLETED,
    "failed": pb.INVOCATION_STATE_FAILED,
    "cancelled": pb.INVOCATION_STATE_CANCELLED,
}
Context = Any  # grpc.aio.ServicerContext; its type stubs know no trailing metadata of bytes
Event = pb.InvokeStreamResponse
T = TypeVar("T")


class InvocationServicer(rpc.InvocationServiceServicer):
    """`InvocationService`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._invocations = Invocations(runtime)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Returns when nothing is being accepted any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def Invoke(self, request: pb.InvokeRequest, context: Context) -> pb.InvokeResponse:
        async with _as_status(context):
            principal, metadata = await self._admit(context)
            wait_s = _checked_wait(request.wait_s)
            origin = self._runtime.origin_of(metadata.get(VIA), metadata.get(POLICY))
            job_id = await self._whole(
                self._accept(principal, request, metadata.get("idempotency-key"), origin)
            )
            row = await self._invocations.wait(job_id, wait_s)
            return pb.InvokeResponse(invocation=await self._shown(row))
        raise AssertionError("unreachable")

    async def GetInvocation(
        self, request: pb.GetInvocationRequest, context: Context
    ) -> pb.GetInvocationResponse:
        async with _as_status(context):
            principal, _ = await self._admit(context)
            wait_s = _checked_wait(request.wait_s)
            row = await self._invocations.find(principal, request.id)
            if is_open(row):
                row = await self._invocations.wait(row["id"], wait_s)
            return pb.GetInvocationResponse(invocation=await self._shown(row))
        raise AssertionError("unreachable")

    async def CancelInvocation(
        self, request: pb.CancelInvocationRequest, context: Context
    ) -> pb.CancelInvocationResponse:
        async with _as_status(context):
            principal, _ = await self._admit(context)
            row = await self._invocations.find(principal, request.id)
            if is_open(row):
                await self._whole(self._invocations.cancel(row["id"]))
                row = await self._invocations.find(principal, request.id)
            return pb.CancelInvocationResponse(invocation=await self._shown(row))
        raise AssertionError("unreachable")

    async def InvokeStream(
        self, request: pb.InvokeStreamRequest, context: Context
    ) -> AsyncIterator[pb.InvokeStreamResponse]:
        async with _as_status(context):
            principal, metadata = await self._admit(context)
            origin = self._runtime.origin_of(metadata.get(VIA), metadata.get(POLICY))
            target = await self._target(principal, request)
            if isinstance(target, Function):
                events = self._of_container(principal, target, request.body)
            else:
                events = self._of_model(principal, target, request.body, origin)
            try:
                async for event in events:
                    yield event
            finally:
                # At once, and not when it happens to be collected.
                await events.aclose()  # type: ignore[attr-defined]

    # Streams

    async def _of_model(
        self, principal: Principal, model: str, body: bytes, origin: Origin
    ) -> AsyncIterator[pb.InvokeStreamResponse]:
        job = self._invocations.chat_job(principal, model, parse_json(body), "sync")
        job.origin = origin
        if job.request.n_logprobs is not None:
            raise InvalidInputError("logprobs", "are not supported here; use /v1/chat/completions")
        if job.request.tools is not None and job.request.tools.active:
            raise InvalidInputError("tools", "are not streamed here; use Invoke")
        await self._runtime.dispatcher.prepare(job, self._runtime.settings.engine_wait_s)
        await self._runtime.submit(job)
        try:
            yield Event(accepted=Event.Accepted(id=job.id))
            while True:
                item = await job.feed.get()
                if isinstance(item, str):
                    yield Event(text=item)
                elif isinstance(item, Waiting):
                    yield _waiting(self._position(job))
                elif item.state != "completed":
                    raise from_outcome(item)
                else:
                    yield _finished(item, job)
                    return
        finally:
            if job.outcome is None:
                self._runtime.spawn(self._runtime.dispatcher.cancel(job))

    async def _of_container(
        self, principal: Principal, function: Function, body: bytes
    ) -> AsyncIterator[pb.InvokeStreamResponse]:
        accepted = asyncio.create_task(self._invocations.accept(principal, function, body))
        done = False
        try:
            job_id = await asyncio.shield(accepted)
            yield Event(accepted=Event.Accepted(id=job_id))
            row = await self._invocations.wait(job_id, _TELL_S)
            while is_open(row):
                if not self._invocations.is_running(row):
                    yield _waiting(await self._invocations.position(row))
                row = await self._invocations.wait(job_id, _TELL_S)
            done = True
            if row["state"] != "completed":
                raise error_of(row)
            result = await self._invocations.result(row)
            for start in range(0, len(result.body), _PIECE_BYTES):
                yield Event(data=result.body[start : start + _PIECE_BYTES])
            yield Event(finished=Event.Finished(content_type=result.content_type))
        finally:
            if not done:
                self._runtime.spawn(self._cancel_accepted(accepted))

    async def _cancel_accepted(self, accepted: asyncio.Task[str]) -> None:
        (job_id,) = await asyncio.gather(accepted, return_exceptions=True)
        if isinstance(job_id, str):
            await self._invocations.cancel(job_id)

    # Parts

    async def _admit(self, context: Context) -> tuple[Principal, dict[str, str]]:
        metadata = {
            key: value for key, value in context.invocation_metadata() if isinstance(value, str)
        }
        scheme, _, key = metadata.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        return await self._runtime.door.authenticate_key(key), metadata

    async def _target(self, principal: Principal, request: Any) -> Function | str:
        if not request.function_id:
            raise InvalidInputError("function_id", "must be given")
        return await self._invocations.target(
            principal, request.function_id, request.function_version_id or None
        )

    async def _accept(
        self, principal: Principal, request: pb.InvokeRequest, key: str | None, origin: Origin
    ) -> str:
        if key is None:
            target = await self._target(principal, request)
            return await self._invocations.accept(principal, target, request.body, origin=origin)
        owner, db = principal.tenant_id, self._runtime.db
        stored = f"grpc:{key}"
        if not 1 <= len(key) <= 250:
            raise InvalidInputError("idempotency-key", "must have 1 to 250 characters")
        asked = hashlib.sha256(b"\0".join(_named(request)) + request.body).hexdigest()
        now_s = self._runtime.clock.now_s()
        claim = await db.call(db.idempotency.claim, owner, stored, asked, now_s)
        if claim.kind == "differs":
            text = "This idempotency-key was used for another request: use a new one."
            raise ApiError(422, text, code="idempotency_key_reused")
        if claim.kind != "run":
            text = "A call with this idempotency-key is being accepted: ask again."
            raise ApiError(409, text, code="idempotency_key_in_use")
        try:
            job_id = str(uuid.uuid5(_NAMES, f"{owner}\0{key}\0{claim.attempt}"))
            if await db.call(db.ledger.job, job_id) is None:
                target = await self._target(principal, request)
                await self._invocations.accept(principal, target, request.body, job_id, origin)
            return job_id
        finally:
            # The next call under the key finds the invocation by its id.
            await db.call(db.idempotency.reopen, owner, stored, claim.attempt)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Does it to its end though its caller may leave: what is half accepted would be lost."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Its caller may be gone: then nobody else asks for its error.
            task.exception()

    def _position(self, job: Job) -> int:
        waiting = self._runtime.dispatcher.waiting
        return waiting.index(job) + 1 if job in waiting else 0

    async def _shown(self, row: Row) -> pb.Invocation:
        state = row["state"]
        shown = pb.Invocation(id=row["id"], created_s=row["created_s"])
        if is_open(row):
            state = "running" if self._invocations.is_running(row) else "queued"
            shown.position_in_queue = await self._invocations.position(row)
        shown.state = _STATES[state]
        if state == "completed":
            result = await self._invocations.result(row)
            shown.result.http_status = result.status
            shown.result.content_type = result.content_type
            shown.result.body = result.body
        elif state == "failed":
            error = error_of(row)
            shown.failure.code, shown.failure.message = error.code or "", error.message
        shown.usage.input_tokens = row["input_tokens"] or 0
        shown.usage.output_tokens = row["output_tokens"] or 0
        shown.usage.preemptions = row["preemptions"] or 0
        return shown


@asynccontextmanager
async def _as_status(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except (ApiError, AiranError) as error:
        code, text, metadata = status_of(error)
        await context.abort(code, text, metadata)


def _named(request: pb.InvokeRequest) -> tuple[bytes, bytes, bytes]:
    return request.function_id.encode(), request.function_version_id.encode(), b""


def _checked_wait(wait_s: float) -> float:
    if not 0.0 <= wait_s <= MAX_WAIT_S:
        raise InvalidInputError("wait_s", f"must be between 0 and {MAX_WAIT_S:.0f}, got {wait_s}")
    return wait_s


def _waiting(position: int) -> pb.InvokeStreamResponse:
    return Event(waiting=Event.Waiting(position_in_queue=position))


def _finished(outcome: Outcome, job: Job) -> pb.InvokeStreamResponse:
    usage = pb.Usage(
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        preemptions=job.preemptions,
    )
    return Event(finished=Event.Finished(finish_reason=outcome.finish_reason or "", usage=usage))
