"""The tenants' side: as many streams as wanted, one after the other each, and work in the
background that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from airan.bench.replay.client import Client, Seen
from airan.bench.replay.tenants import Tenant
from airan.bench.replay.trace import Planned

STREAMS = Tenant("streams", "default", 1, 1.0)
BACKGROUND = Tenant("background", "default", 1, 0.0)
_REFUSED_S = 1.0
"""How long a client that was refused waits before it asks again."""
_POLL_S = 0.5
_ENDED = ("completed", "failed", "cancelled", "incomplete", "expired")
_FILE = "lines.jsonl"


@dataclass(frozen=True)
class LoadOptions:
    """What is asked for.

    Attributes:
        n_streams: at once.
        answer_tokens: of each answer.
        prompt_words: of each prompt.
        background_s: between two requests in the background.
        batch_lines: of each batch.
    """

    n_streams: int = 64
    answer_tokens: int = 256
    prompt_words: int = 32
    background_s: float = 2.0
    batch_lines: int = 8


@dataclass
class Background:
    """What was asked for in the background.

    Attributes:
        responses, batches: ids that the marketplace accepted.
        n_lines: of these batches.
        n_refused: what it did not accept.
    """

    responses: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    n_lines: int = 0
    n_refused: int = 0


@dataclass(frozen=True)
class BackgroundEnd:
    """What came of it.

    Attributes:
        accepted, completed: responses and lines of batches.
        output_tokens: of the completed ones, by what they say themselves.
        problems: of the others.
    """

    accepted: int
    completed: int
    output_tokens: int
    problems: tuple[str, ...]


class SteadyLoad:
    """Requests as long as it runs. Times are of the host's monotonic clock."""

    def __init__(self, url: str, model: str, keys: dict[str, str], options: LoadOptions) -> None:
        self.seen: list[Seen] = []
        """Every stream that was asked for, those that run among them."""
        self.background = Background()
        self._url, self._model, self._options = url, model, options
        self._client = Client(url, model, keys, seed=1, on_begun=self.seen.append)
        self._http = httpx.AsyncClient(
            base_url=f"{url}/v1",
            headers={"authorization": f"Bearer {keys[BACKGROUND.name]}"},
            trust_env=False,
            timeout=60.0,
        )
        self._client.begin()
        self.begun_s = time.monotonic()
        """What the times of `seen` count from."""
        self._goes = asyncio.Event()
        self._number = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load until the body ends; then no new requests, and the last streams are read to their
        ends."""
        self._goes.set()
        tasks = [asyncio.create_task(self._stream()) for _ in range(self._options.n_streams)]
        tasks.append(asyncio.create_task(self._ask_now_and_then()))
        try:
            yield
            self._goes.clear()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()
        await self._http.aclose()

    def token_times_s(self) -> list[float]:
        """When each token came that any stream had so far, in order."""
        return sorted(self.begun_s + at_s for one in self.seen for at_s in one.token_s)

    def has_tokens_since(self, at_s: float) -> bool:
        """Whether a token came after that."""
        since_s = at_s - self.begun_s
        return any(one.token_s and one.token_s[-1] > since_s for one in self.seen)

    async def begin_batch(self) -> None:
        """Uploads a file of lines and has them answered in the background."""
        options = self._options
        lines = [json.dumps(self._line(number)) for number in range(options.batch_lines)]
        content = "\n".join(lines).encode()
        with self._counting_refusals():
            file = {"file": (_FILE, content, "application/jsonl")}
            made = await self._http.post("/files", data={"purpose": "batch"}, files=file)
            body = {
                "input_file_id": made.raise_for_status().json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            begun = await self._http.post("/batches", json=body)
            self.background.batches.append(begun.raise_for_status().json()["id"])
            self.background.n_lines += options.batch_lines

    async def end_background(self, limit_s: float) -> BackgroundEnd:
        """Waits for what was asked for in the background, and counts."""
        until_s = time.monotonic() + limit_s
        accepted = len(self.background.responses) + self.background.n_lines
        completed = tokens = 0
        problems = []
        for name in self.background.responses:
            found = await self._until_ended(f"/responses/{name}", until_s)
            # Cut off at its most tokens, as it is meant to be, it is "incomplete".
            if found.get("status") in ("completed", "incomplete"):
                completed += 1
                tokens += int(found["usage"]["output_tokens"])
            else:
                problems.append(f"response {name}: {found.get('status', 'unknown')}")
        for name in self.background.batches:
            found = await self._until_ended(f"/batches/{name}", until_s)
            answers = await self._answers(found)
            completed += len(answers)
            tokens += sum(int(one["usage"]["completion_tokens"]) for one in answers)
            if len(answers) < self._options.batch_lines:
                what = f"{found.get('status', 'unknown')}, {len(answers)} answers"
                problems.append(f"batch {name}: {what}")
        return BackgroundEnd(accepted, completed, tokens, tuple(problems))

    async def _stream(self) -> None:
        while self._goes.is_set():
            self._number += 1
            options = self._options
            n_prompt = options.prompt_words + self._client.n_template
            planned = Planned(
                self._number, self._client.now_s(), STREAMS, n_prompt, options.answer_tokens, False
            )
            seen = await self._client.send(planned)
            if not seen.complete:
                await asyncio.sleep(_REFUSED_S)

    async def _ask_now_and_then(self) -> None:
        while self._goes.is_set():
            body = {
                "model": self._model,
                "input": "Count the cells of a radio site.",
                "max_output_tokens": max(16, self._options.answer_tokens // 2),
                "background": True,
                "temperature": 0,
            }
            with self._counting_refusals():
                made = await self._http.post("/responses", json=body)
                self.background.responses.append(made.raise_for_status().json()["id"])
            await asyncio.sleep(self._options.background_s)

    @contextlib.contextmanager
    def _counting_refusals(self) -> Any:
        try:
            yield
        except httpx.HTTPError:
            self.background.n_refused += 1

    def _line(self, number: int) -> dict[str, Any]:
        return {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": self._model,
                "messages": [{"role": "user", "content": f"Count to {number}."}],
                "max_tokens": max(16, self._options.answer_tokens // 2),
                "temperature": 0,
            },
        }

    async def _until_ended(self, path: str, until_s: float) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                found = (await self._http.get(path)).raise_for_status().json()
            if found.get("status") in _ENDED or time.monotonic() > until_s:
                return found
            await asyncio.sleep(_POLL_S)

    async def _answers(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        if not batch.get("output_file_id"):
            return []
        file = await self._http.get(f"/files/{batch['output_file_id']}/content")
        lines = [json.loads(one) for one in file.raise_for_status().text.splitlines() if one]
        answers = [one["response"] for one in lines if one.get("response")]
        return [one["body"] for one in answers if one["status_code"] == httpx.codes.OK]
