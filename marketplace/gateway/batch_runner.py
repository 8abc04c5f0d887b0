"""Runs batches beside the requests. After a restart each goes on with the lines left."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from airan.core.errors import (
    AiranError,
    CapacityError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from marketplace.batch_input import BatchLine, read_batch_input
from marketplace.billing.limits import LimitError
from marketplace.chat import completion, parse_chat_request, tools_of, usage_object
from marketplace.completions import parse_completion_request, text_choice, text_completion
from marketplace.federation.travel import Origin, origin_of
from marketplace.gateway.embeddings_api import answer_embeddings
from marketplace.gateway.errors import (
    ApiError,
    from_airan,
    from_outcome,
)
from marketplace.gateway.files_api import save_file
from marketplace.gateway.runtime import Runtime
from marketplace.jobs import Job
from marketplace.store.accounts import Principal
from marketplace.store.database import StoreFailedError
from marketplace.store.ledger import Outcome
from marketplace.store.takeover import Inheritance

log = logging.getLogger(__name__)

_AT_ONCE = 8
_FULL_WAIT_S = 0.5
_AGAIN_S = 1.0
_LINES = uuid.UUID("7f7b0e2c-55a4-4c39-9f2d-1f6a3f3c8a10")
"""Names of lines' jobs come from batch and line: a line has the same job in every life."""
Document = dict[str, Any]
T = TypeVar("T")


class BatchRunner:
    """One task a batch; the documents here are newer than those stored by an instant at most."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}
        self._given_up: set[str] = set()
        self._origins: dict[str, Origin | None] = {}

    async def start(self) -> None:
        """Goes on with the batches that earlier gateways, or other ones, have left."""
        await self._runtime.company.add_heir(self._go_on_with, self._end_as_asked)

    async def _go_on_with(self, left: Inheritance) -> None:
        while left.batches:
            row = left.batches[0]
            principal = await self._runtime.db.call(self._runtime.db.keys.principal, row["key_id"])
            self.begin(json.loads(row["document"]), principal, _origin(row))
            del left.batches[0]

    async def stop(self) -> None:
        """Leaves the open batches to the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, document: Document, principal: Principal, origin: Origin | None) -> None:
        """Runs a stored batch; `origin`: where it came from, None: it never goes to a peer."""
        batch_id = document["id"]
        self._origins[batch_id] = origin
        cancelled = self._cancelled[batch_id] = asyncio.Event()
        if document["status"] == "cancelling":
            cancelled.set()
        task = asyncio.create_task(self._run(document, principal, cancelled))
        self._tasks[batch_id] = task
        task.add_done_callback(lambda _: self._forget(batch_id))

    async def cancel(self, document: Document) -> Document:
        """Has no further line begin; those that run are cancelled.

        Raises:
            ApiError: 409, the batch has ended or is about to.
        """
        if document["status"] in ("cancelling", "cancelled"):
            return document
        if document["status"] not in ("validating", "in_progress"):
            text = f"A batch that is {document['status']} cannot be cancelled."
            raise ApiError(409, text, code="batch_not_cancellable")
        document = document | {"status": "cancelling", "cancelling_at": self._now()}
        if not await self._runtime.db.call(self._runtime.db.batches.ask_to_cancel, document):
            text = "The batch has just ended, or is about to."
            raise ApiError(409, text, code="batch_not_cancellable")
        if (event := self._cancelled.get(document["id"])) is not None:
            event.set()
        return document

    async def _end_as_asked(self) -> None:
        """Ends the batches here that another gateway was told to cancel."""
        runtime = self._runtime
        for batch_id in await runtime.db.call(runtime.db.batches.cancelling, runtime.id):
            if (event := self._cancelled.get(batch_id)) is not None:
                event.set()

    def _forget(self, batch_id: str) -> None:
        del self._tasks[batch_id], self._cancelled[batch_id], self._origins[batch_id]
        self._given_up.discard(batch_id)

    def _now(self) -> int:
        return int(self._runtime.clock.now_s())

    async def _run(
        self, document: Document, principal: Principal, cancelled: asyncio.Event
    ) -> None:
        try:
            while not await self._run_once(document, principal, cancelled):
                await asyncio.sleep(_AGAIN_S)
        except Exception:
            # The batch stays open: the next start of the gateway tries again.
            log.exception("batch %s stopped", document["id"])

    async def _run_once(
        self, document: Document, principal: Principal, cancelled: asyncio.Event
    ) -> bool:
        """Does what is left to do of a batch; False if the database went meanwhile."""
        try:
            lines = await self._validate(document)
            if lines is not None:
                await self._work(document, principal, cancelled, lines)
                await self._finalize(document, principal, cancelled, lines)
        except UnavailableError as error:
            log.warning("batch %s waits: %s", document["id"], error)
            return False
        return True

    async def _save(self, document: Document, **changes: Any) -> None:
        """Keeps what changed; a cancellation that came meanwhile stays."""
        document.update(changes)
        batches = self._runtime.db.batches
        unless = ("cancelling",) if document["status"] in ("validating", "in_progress") else ()
        await self._runtime.db.call(batches.save_batch, document, unless)

    async def _validate(self, document: Document) -> list[BatchLine] | None:
        lines, errors = await self._runtime.db.aside(self._read_input, document)
        if errors:
            failed = {"object": "list", "data": errors}
            await self._save(document, status="failed", failed_at=self._now(), errors=failed)
            return None
        if document["status"] == "validating":
            counts = {"total": len(lines), "completed": 0, "failed": 0}
            now = self._now()
            changes = {"status": "in_progress", "in_progress_at": now, "request_counts": counts}
            await self._save(document, **changes)
        return lines

    def _read_input(self, document: Document) -> tuple[list[BatchLine], list[Document]]:
        content = bytearray()
        # A file that was deleted meanwhile counts as empty.
        with suppress(NotFoundError):
            for piece in self._runtime.contents.pieces(document["input_file_id"]):
                content += piece
        limit = self._runtime.settings.max_batch_lines
        return read_batch_input(content, document["endpoint"], limit)

    async def _work(
        self,
        document: Document,
        principal: Principal,
        cancelled: asyncio.Event,
        lines: list[BatchLine],
    ) -> None:
        """Answers the lines left, some at once, until all are, or it is cancelled or expired."""
        batches = self._runtime.db.batches
        done = await self._runtime.db.call(batches.answered, document["id"])
        left = iter([line for line in lines if line.number not in done])
        n_left = max(0.0, document["expires_at"] - self._runtime.clock.now_s())
        workers = [
            asyncio.create_task(self._worker(document, principal, left)) for _ in range(_AT_ONCE)
        ]
        ending = asyncio.create_task(cancelled.wait())
        everything: asyncio.Future[Any] = asyncio.gather(*workers)
        try:
            await asyncio.wait(
                set[asyncio.Future[Any]]((everything, ending)),
                timeout=n_left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if everything.done():
                await everything
            else:
                self._given_up.add(document["id"])
        finally:
            ending.cancel()
            everything.cancel()
            await asyncio.gather(everything, return_exceptions=True)
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(
        self, document: Document, principal: Principal, left: Iterator[BatchLine]
    ) -> None:
        for line in left:
            status, body = await self._answer(document, principal, line)
            await self._store(document, line, status, body)
            done = await self._runtime.db.call(self._runtime.db.batches.answered, document["id"])
            await self._save(document, request_counts=_counts(done, document))

    async def _store(
        self, document: Document, line: BatchLine, status: int, body: Document
    ) -> None:
        job_id = str(line_job_id(document["id"], line))
        answer = {"id": f"batch_req_{job_id.replace('-', '')}", "custom_id": line.custom_id}
        response = {"status_code": status, "request_id": f"req_{job_id}", "body": body}
        text = json.dumps(answer | {"response": response, "error": None})
        add = self._runtime.db.batches.add_line
        await self._runtime.db.call(add, document["id"], line.number, status != 200, text)

    async def _answer(
        self, document: Document, principal: Principal, line: BatchLine
    ) -> tuple[int, Document]:
        """A line's status and body, as the endpoint would have answered it."""
        runtime = self._runtime
        try:
            runtime.check_model(principal, line.body.get("model"))
            if document["endpoint"] == "/v1/embeddings":
                body = line.body | {"service_tier": "flex"}
                once = line_job_id(document["id"], line).hex
                ask = partial(answer_embeddings, runtime, principal, body, once)
                return 200, await _when_there_is_room(ask)
            return await self.complete_line(document, principal, line)
        except ApiError as error:
            return error.status, error.body()
        except StoreFailedError:
            # Not the line's answer: the batch waits, and asks for it again under the same name.
            raise
        except AiranError as error:
            refusal = from_airan(error)
            return refusal.status, refusal.body()

    async def complete_line(
        self, document: Document, principal: Principal, line: BatchLine
    ) -> tuple[int, Document]:
        """Status and body of a line that asks for text, once its job has ended."""
        runtime, job_id = self._runtime, str(line_job_id(document["id"], line))
        row = await runtime.db.call(runtime.db.ledger.job, job_id)
        chat = document["endpoint"] == "/v1/chat/completions"
        if row is None:
            await self._submit(self._job(document, principal, line, chat))
        job = runtime.async_jobs.get(job_id)
        try:
            if job is not None:
                await job.done.wait()
            # Its batch may have come to another gateway than the job.
            row = await runtime.elsewhere.ended(job_id)
        except asyncio.CancelledError:
            if document["id"] in self._given_up:
                if job is not None:
                    await runtime.dispatcher.cancel(job)
                else:
                    runtime.db.post(runtime.db.ledger.ask_to_cancel, job_id)
            raise
        if row["state"] != "completed":
            code, message = row["error_code"], row["error_message"]
            error = from_outcome(
                Outcome(row["state"], 0, 0, error_code=code, error_message=message)
            )
            return error.status, error.body()
        return 200, _answer_body(row, chat)

    def _job(self, document: Document, principal: Principal, line: BatchLine, chat: bool) -> Job:
        body = line.body | {"service_tier": "flex"}
        requests = [parse_chat_request(body)] if chat else parse_completion_request(body)
        request = requests[0]
        if len(requests) > 1:
            raise InvalidInputError("prompt", "must be one prompt in a batch's line")
        if request.stream:
            raise InvalidInputError("stream", "is not possible in a batch")
        if request.n_logprobs is not None:
            raise InvalidInputError("logprobs", "are not kept for batches")
        job = self._runtime.job_of(request, "async", principal)
        job.id = str(line_job_id(document["id"], line))
        job.origin = self._origins[document["id"]]
        return job

    async def _submit(self, job: Job) -> None:
        runtime = self._runtime
        try:
            await runtime.dispatcher.prepare(job, runtime.settings.engine_wait_s)
        except UnavailableError:
            # It is made ready when an engine takes it.
            job.prompt_ids = None
        await _when_there_is_room(partial(runtime.dispatcher.submit, job))
        runtime.keep(job)

    async def _finalize(
        self,
        document: Document,
        principal: Principal,
        cancelled: asyncio.Event,
        lines: list[BatchLine],
    ) -> None:
        batches, call = self._runtime.db.batches, self._runtime.db.call
        done = await call(batches.answered, document["id"])
        whole = len(done) == len(lines)
        state = "cancelled" if cancelled.is_set() else "completed" if whole else "expired"
        if state == "cancelled":
            stored = await call(batches.batch, document["id"], principal.tenant_id)
            document["cancelling_at"] = (stored or document)["cancelling_at"]
        else:
            await self._save(document, status="finalizing", finalizing_at=self._now())
        if not whole:
            await self._leave_out(document, [one for one in lines if one.number not in done], state)
            done = await call(batches.answered, document["id"])
        changes: Document = {"request_counts": _counts(done, document)}
        for failed, key in ((False, "output_file_id"), (True, "error_file_id")):
            answers = await call(batches.answers, document["id"], failed)
            if answers:
                content = ("\n".join(answers) + "\n").encode()
                name = f"{document['id']}_{'error' if failed else 'output'}.jsonl"
                tenant = principal.tenant_id
                row = await save_file(self._runtime, tenant, "batch_output", name, content)
                changes[key] = row["id"]
        changes |= {"status": state, f"{state}_at": self._now()}
        await self._save(document, **changes)

    async def _leave_out(self, document: Document, left: list[BatchLine], state: str) -> None:
        """Lines that were not answered go into the error file with the reason."""
        code = f"batch_{state}"
        for line in left:
            error = {"code": code, "message": f"The batch was {state} before this line was done."}
            name = line_job_id(document["id"], line).hex
            answer = {"id": f"batch_req_{name}", "custom_id": line.custom_id}
            text = json.dumps(answer | {"response": None, "error": error})
            add = self._runtime.db.batches.add_line
            await self._runtime.db.call(add, document["id"], line.number, True, text)


def _origin(row: dict[str, Any]) -> Origin | None:
    """Where a stored batch came from; None: an earlier airan did not keep it."""
    via, narrows = row["via"], row["narrows"]
    return None if via is None else origin_of([via] if via else [], narrows)


async def _when_there_is_room(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks again and again until it is not refused for want of room.

    Raises:
        CapacityError: by a limit that waiting does not change.
    """
    while True:
        try:
            return await ask()
        except CapacityError as error:
            # An empty account is not filled by waiting.
            if isinstance(error, LimitError) and error.retry_after_s is None:
                raise
            await asyncio.sleep(_FULL_WAIT_S)


def line_job_id(batch_id: str, line: BatchLine) -> uuid.UUID:
    """The name of the line's job."""
    return uuid.uuid5(_LINES, f"{batch_id}/{line.number}")


def _counts(done: dict[int, bool], document: Document) -> dict[str, int]:
    n_failed = sum(done.values())
    total = document["request_counts"]["total"]
    return {"total": total, "completed": len(done) - n_failed, "failed": n_failed}


def _answer_body(row: dict[str, Any], chat: bool) -> Document:
    usage = usage_object(row["input_tokens"], row["output_tokens"], row["preemptions"])
    text, reason = row["text"] or "", row["finish_reason"] or "stop"
    if chat:
        tools = tools_of(row["request"])
        body = completion(row["id"], row["model"], row["created_s"], text, reason, usage, tools)
        return body | {"service_tier": "flex"}
    request = parse_completion_request(json.loads(row["request"]))[0]
    choices = [text_choice(0, text, reason)]
    return text_completion(row["id"], request, row["created_s"], choices, usage)
