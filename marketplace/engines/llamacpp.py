"""llama.cpp's HTTP server as an Engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.engines.base import FinishReason, Message, SamplingParams, TokenChunk, TokenLogprob

_SEED_RANGE = 2**32 - 1
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=120.0)
_KEPT_S = 3.0
"""How long an idle connection is kept: less than the 5 s after which llama.cpp closes it."""
_TRIES = 4
_ASKING = 2
_OK, _BAD_REQUEST, _UNPROCESSABLE = 200, 400, 422
_IMPOSSIBLE = -9999.0
_JSON = {"content-type": "application/json"}
_FAILED, _NOT_SUPPORTED = 500, 501
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class LlamaCppEngine:
    """Talks to the server at `url`.

    llama.cpp does not notice a closed connection while it works through a prompt, so the prompt
    is fed in pieces of `prefill_piece_tokens`, one piece at a time over all slots: whatever is
    stopped costs at most one piece. 0 feeds prompts whole.
    """

    def __init__(self, url: str, prefill_piece_tokens: int = 0) -> None:
        self.url = url
        self._piece = prefill_piece_tokens
        self._prefill = asyncio.Lock()
        self._cached: dict[int, list[int]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._stream_session: aiohttp.ClientSession | None = None
        self._closed = False

    async def generate(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, *, slot: int
    ) -> AsyncIterator[TokenChunk]:
        """See Engine.generate."""
        prompt = list(prompt_token_ids)
        if self._piece:
            await self._feed(prompt, slot)
        body = {**_sampling(params), "prompt": prompt, "id_slot": slot, "cache_prompt": True}
        body |= {"stream": True, "return_tokens": True, "n_predict": params.max_tokens}
        n_generated = respelled = 0
        try:
            # On a connection of its own: its end, wherever it comes, stops the engine, and the
            # server cannot have closed it just now, as it does after every stream.
            async with await self._post_once(self._streams, "/completion", body) as response:
                if response.status != _OK:
                    raise _refusal(response.status, await response.read())
                held = self._cached[slot] = prompt
                async for message in _messages(response):
                    chunk = await self._chunk(message, n_generated, respelled)
                    n_generated = int(message.get("tokens_predicted", n_generated))
                    respelled = chunk.n_generated - n_generated
                    held.extend(chunk.token_ids)
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        except _FAILURES as error:
            raise self._lost(error) from error
        raise UnavailableError(f"the engine at {self.url} ended its stream before it was done")

    async def apply_template(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """See Engine.apply_template."""
        body: dict[str, Any] = {"messages": list(messages)}
        if tools:
            # The template has them all the same; llama.cpp makes no parser of its own of them.
            body |= {"tools": list(tools), "tool_choice": "none"}
        return str((await self._post("/apply-template", body))["prompt"])

    async def tokenize(
        self, text: str, *, parse_special: bool, add_special: bool = False
    ) -> list[int]:
        """See Engine.tokenize."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return list((await self._post("/tokenize", body))["tokens"])

    async def embed(self, token_ids: Sequence[int]) -> list[float]:
        """See Engine.embed."""
        answer = await self._post("/v1/embeddings", {"input": list(token_ids)})
        return [float(value) for value in answer["data"][0]["embedding"]]

    async def health(self) -> bool:
        """See Engine.health."""
        try:
            async with self._http.get("/health") as response:
                return response.status == _OK
        except _FAILURES:
            return False

    async def processing(self) -> list[bool]:
        """For each slot whether a request is being worked on."""
        try:
            async with self._http.get("/slots") as response:
                slots = json.loads(await response.read())
            return [bool(slot["is_processing"]) for slot in slots]
        except (*_FAILURES, ValueError, KeyError, TypeError) as error:
            raise self._lost(error) from error

    async def aclose(self) -> None:
        """See Engine.aclose."""
        self._closed = True
        for session in (self._session, self._stream_session):
            if session is not None:
                await session.close()

    @property
    def _streams(self) -> aiohttp.ClientSession:
        self._check_open()
        if self._stream_session is None:
            self._stream_session = self._new_session(
                aiohttp.TCPConnector(limit=0, force_close=True)
            )
        return self._stream_session

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made at its first use, within the event loop it belongs to."""
        self._check_open()
        if self._session is None:
            # An open connection takes one of the few threads of llama.cpp's server.
            self._session = self._new_session(
                aiohttp.TCPConnector(limit=_ASKING, keepalive_timeout=_KEPT_S)
            )
        return self._session

    def _new_session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            timeout=_TIMEOUT,
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _check_open(self) -> None:
        """Refuses what comes after the server was found to be gone, as a lost connection would."""
        if self._closed:
            raise UnavailableError(f"the engine at {self.url} is gone")

    async def _feed(self, prompt: list[int], slot: int) -> None:
        """Fills the slot's cache piece by piece, from what it holds already up to the last piece.

        What it holds has to be known: a piece shorter than the cache would throw the rest away.
        """
        start = _common_prefix(self._cached.get(slot, []), prompt)
        self._cached[slot] = prompt[:start]
        for end in range(start + self._piece, len(prompt), self._piece):
            body = {"prompt": prompt[:end], "id_slot": slot, "cache_prompt": True, "n_predict": 0}
            async with self._prefill:
                await self._fed(body)
            self._cached[slot] = prompt[:end]

    async def _chunk(self, message: Mapping[str, Any], n_before: int, respelled: int) -> TokenChunk:
        """One message as a chunk; `respelled` corrects the engine's count for earlier chunks."""
        n_generated = int(message.get("tokens_predicted", n_before))
        text = str(message.get("content", ""))
        ids = tuple(int(token) for token in message.get("tokens", ()))
        final = bool(message.get("stop"))
        n_new = n_generated - n_before
        if text and len(ids) < n_new - final:
            # A character of several tokens arrives at once, with the id of its last token only.
            # The model may have spelled it in other tokens than these; the text is the same.
            ids = tuple(await self.tokenize(text, parse_special=False))
            respelled += len(ids) - n_new
        reason = _finish_reason(message) if final else None
        logprobs = tuple(map(_logprob, message.get("completion_probabilities", ())))
        return TokenChunk(text, ids, n_generated + respelled, reason, logprobs)

    async def _fed(self, body: Mapping[str, Any]) -> None:
        try:
            async with await self._post_once(self._streams, "/completion", body) as response:
                answer = await response.read()
                if response.status != _OK:
                    raise _refusal(response.status, answer)
        except _FAILURES as error:
            raise self._lost(error) from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with await self._asked(path, body) as response:
                answer = await response.read()
            if response.status != _OK:
                raise _refusal(response.status, answer, path)
            return dict(json.loads(answer))
        except (*_FAILURES, json.JSONDecodeError) as error:
            raise self._lost(error) from error

    async def _asked(self, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                return await self._post_once(self._http, path, body)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # The server has just closed the connection, which had been idle. To ask again
                # changes nothing.
                if not tries_left:
                    raise
            except asyncio.CancelledError as error:
                # aiohttp cancels what waits for a connection of a client that is closed.
                task = asyncio.current_task()
                if not self._closed or (task is not None and task.cancelling()):
                    raise
                raise self._lost(error) from error
        raise AssertionError("unreachable")

    async def _post_once(
        self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        return await session.post(path, data=json.dumps(body).encode(), headers=_JSON)

    def _lost(self, error: BaseException) -> UnavailableError:
        return UnavailableError(
            f"the engine at {self.url} cannot be reached: {error or type(error).__name__}"
        )


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
            elif line.startswith(b"error: "):
                raise UnavailableError(f"the engine broke off: {line[7:].decode()}")


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading items are equal."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _logprob(values: Mapping[str, Any]) -> TokenLogprob:
    # An impossible token has minus infinity, which JSON cannot spell.
    logprob = values.get("logprob")
    logprob = _IMPOSSIBLE if logprob is None else max(float(logprob), _IMPOSSIBLE)
    top = tuple(map(_logprob, values.get("top_logprobs", ())))
    return TokenLogprob(str(values["token"]), bytes(values["bytes"]), logprob, top)


def _sampling(params: SamplingParams) -> dict[str, Any]:
    return _asked(params) | {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "seed": -1 if params.seed is None else params.seed % _SEED_RANGE,
        "samplers": ["penalties", "top_p", "temperature"],
    }


def _asked(params: SamplingParams) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if params.n_logprobs is not None:
        # llama.cpp reports the token chosen only together with at least one alternative.
        body["n_probs"] = max(params.n_logprobs, 1)
    if params.json_schema is not None:
        body["json_schema"] = params.json_schema
    return body


def _finish_reason(message: Mapping[str, Any]) -> FinishReason:
    return "length" if message.get("stop_type") == "limit" else "stop"


def _refusal(status: int, body: bytes, path: str = "") -> Exception:
    """The engine's HTTP error as one of ours: 4xx is the request's fault, all else passes."""
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode(errors="replace")
    if status == _NOT_SUPPORTED:
        return InvalidInputError("model", f"the engine cannot do this: {message}")
    if status == _FAILED and path == "/apply-template":
        # It would fail again, on whatever engine.
        return InvalidInputError("messages", f"the model's chat template refuses them: {message}")
    if status in (_BAD_REQUEST, _UNPROCESSABLE):
        return InvalidInputError("prompt", f"the engine refuses it: {message}")
    return UnavailableError(f"the engine answers {status}: {message}")
