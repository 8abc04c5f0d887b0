"""vLLM's OpenAI-compatible server as an Engine of tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.base import FinishReason, Message, SamplingParams, TokenChunk, TokenLogprob

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=120.0)
_KEPT_S = 3.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn closes it."""
_OK = 200
_REFUSED = (400, 404, 413, 422)
_NO_SUCH_ROUTE = (404, 405, 501)
_IMPOSSIBLE = -9999.0
_LEAST_TEMPERATURE = 0.01
"""vLLM refuses what is smaller and not 0."""
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
_RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class VllmEngine:
    """Talks to the vLLM server at `url`, which serves its model as `model`.

    Prompts go in as tokens and answers come out as tokens (`return_token_ids`, vLLM 0.10.2 and
    later), so that an answer broken off goes on from its last token. vLLM finds a known prefix by
    itself: the slot is not used. A closed connection ends its request.

    vLLM reads control tokens wherever they stand in a text, and its penalties look at the answer
    only, however long.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url = url
        self._model = model
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        slot: int,
        adapter: str = "",
    ) -> AsyncIterator[TokenChunk]:
        """See Engine.generate. vLLM keeps the prefixes of its adapters apart by itself."""
        del slot
        body = _sampling(params) | {"prompt": list(prompt_token_ids)}
        body |= {"model": adapter or self._model}
        body |= {"stream": True, "return_token_ids": True, "add_special_tokens": False}
        pending = _Pending()
        try:
            async with self._http.post("/v1/completions", json=body) as response:
                if response.status != _OK:
                    raise _refusal(response.status, await response.read())
                async for message in _messages(response):
                    chunk = pending.take(message)
                    if chunk is None:
                        continue
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
        body: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True}
        if tools:
            body["tools"] = list(tools)
        tokens = (await self._post("/tokenize", body))["tokens"]
        return str((await self._post("/detokenize", {"tokens": tokens}))["prompt"])

    async def tokenize(
        self, text: str, *, parse_special: bool, add_special: bool = False
    ) -> list[int]:
        """See Engine.tokenize; control tokens are read with `parse_special` and without."""
        del parse_special
        body = {"prompt": text, "add_special_tokens": add_special}
        return [int(token) for token in (await self._post("/tokenize", body))["tokens"]]

    async def load_adapter(self, adapter: AdapterFile) -> None:
        """Has the server load a LoRA adapter, which it then serves under its id.

        Raises:
            InvalidInputError: it cannot.
            UnavailableError: the server does not answer.
        """
        body = {"lora_name": adapter.id, "lora_path": str(adapter.path)}
        await self._change("/v1/load_lora_adapter", body)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Has the server forget it.

        Raises:
            InvalidInputError: it does not have it.
            UnavailableError: the server does not answer.
        """
        await self._change("/v1/unload_lora_adapter", {"lora_name": adapter_id})

    async def _change(self, path: str, body: Mapping[str, Any]) -> None:
        status, answer = await self._told(path, body)
        if status != _OK:
            # What it cannot load it answers with 500, too.
            raise InvalidInputError("adapter", f"vLLM refuses it: {_message(answer)}")

    async def embed(self, token_ids: Sequence[int]) -> list[float]:
        """See Engine.embed."""
        answer = await self._post("/v1/embeddings", {"input": list(token_ids)})
        return [float(value) for value in answer["data"][0]["embedding"]]

    async def health(self) -> bool:
        """See Engine.health."""
        try:
            async with self._http.get("/health") as response:
                return response.status == _OK
        except (*_FAILURES, UnavailableError):
            return False

    async def running(self) -> int:
        """Requests in work or waiting in the server, by its metrics.

        Raises:
            UnavailableError: the server does not answer.
        """
        try:
            async with self._http.get("/metrics") as response:
                lines = (await response.text()).splitlines()
        except _FAILURES as error:
            raise self._lost(error) from error
        counts = (line.rsplit(" ", 1)[1] for line in lines if line.startswith(_GAUGES))
        return round(sum(map(float, counts)))

    async def sleep(self, level: int) -> None:
        """Gives the model's memory back: weights go to the host's memory (1) or are dropped (2).

        Raises:
            InvalidInputError: the server was not started for it (404).
            UnavailableError: it does not answer, or fails.
        """
        await self._tell(f"/sleep?level={level}")

    async def wake(self, level: int) -> None:
        """Takes the memory again that `sleep` of that level gave back; as `sleep` raises."""
        if level == 1:
            await self._tell("/wake_up")
            return
        await self._tell("/wake_up?tags=weights")
        await self._tell("/collective_rpc", {"method": "reload_weights"})
        await self._tell("/wake_up?tags=kv_cache")
        # What it knew of prefixes went with the cache.
        await self._tell("/reset_prefix_cache")

    async def aclose(self) -> None:
        """See Engine.aclose."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made at its first use, within the event loop it belongs to."""
        if self._closed:
            raise UnavailableError(f"the engine at {self.url} is gone")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self.url,
                timeout=_TIMEOUT,
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with self._http.post(path, json={**body, "model": self._model}) as response:
                answer = await response.read()
            if path == "/v1/embeddings" and response.status in _NO_SUCH_ROUTE:
                raise InvalidInputError("model", "the engine was not started for embeddings")
            if response.status != _OK:
                raise _refusal(response.status, answer)
            return dict(json.loads(answer))
        except (*_FAILURES, json.JSONDecodeError) as error:
            raise self._lost(error) from error

    async def _tell(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        status, answer = await self._told(path, body)
        if status != _OK:
            raise _refusal(status, answer)

    async def _told(self, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        try:
            async with self._http.post(path, json=body) as response:
                return response.status, await response.read()
        except _FAILURES as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> UnavailableError:
        return UnavailableError(
            f"the engine at {self.url} cannot be reached: {error or type(error).__name__}"
        )


_GAUGES = tuple(f"{name}{{" for name in _RUNNING)


class _Pending:
    """Gathers tokens until the characters they are part of are whole."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._n_generated = 0

    def take(self, message: Mapping[str, Any]) -> TokenChunk | None:
        """The next chunk, if this message completes one."""
        if not message.get("choices"):
            return None
        choice = message["choices"][0]
        self._ids.extend(int(token) for token in choice.get("token_ids") or ())
        self._logprobs.extend(_logprobs(choice.get("logprobs")))
        text, reason = str(choice.get("text") or ""), _finish_reason(choice)
        if not text and reason is None:
            return None
        ids, logprobs = tuple(self._ids), tuple(self._logprobs)
        self._ids, self._logprobs = [], []
        self._n_generated += len(ids)
        return TokenChunk(text, ids, self._n_generated, reason, logprobs)


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: ") or line[6:].strip() == b"[DONE]":
                continue
            message: dict[str, Any] = json.loads(line[6:])
            if "error" in message:
                raise _refusal(int(message["error"].get("code") or 0), line[6:])
            yield message


def _sampling(params: SamplingParams) -> dict[str, Any]:
    temperature = params.temperature
    body: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": max(temperature, _LEAST_TEMPERATURE) if temperature else 0.0,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
    if params.seed is not None:
        body["seed"] = params.seed % 2**63
    if params.n_logprobs is not None:
        body["logprobs"] = params.n_logprobs
    if params.json_schema is not None:
        body["structured_outputs"] = {"json": params.json_schema}
    return body


def _logprobs(values: Mapping[str, Any] | None) -> list[TokenLogprob]:
    """The chosen tokens and their alternatives; part of a character is an empty text."""
    if values is None:
        return []
    tops = values.get("top_logprobs") or [{} for _ in values["tokens"]]
    return [
        _logprob(text, logprob, tuple(_logprob(*other) for other in (top or {}).items()))
        for text, logprob, top in zip(values["tokens"], values["token_logprobs"], tops, strict=True)
    ]


def _logprob(text: str, logprob: float | None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    value = _IMPOSSIBLE if logprob is None else max(float(logprob), _IMPOSSIBLE)
    return TokenLogprob(text, text.encode(), value, top)


def _finish_reason(choice: Mapping[str, Any]) -> FinishReason | None:
    reason = choice.get("finish_reason")
    if reason == "abort":
        raise UnavailableError("the engine broke the request off")
    if reason is None:
        return None
    return "length" if reason == "length" else "stop"


def _refusal(status: int, body: bytes) -> Exception:
    """The engine's HTTP error as one of ours: 4xx is the request's fault, all else passes."""
    message = _message(body)
    if status in _REFUSED:
        return InvalidInputError("prompt", f"the engine refuses it: {message}")
    return UnavailableError(f"the engine answers {status}: {message}")


def _message(body: bytes) -> str:
    """What the error in that answer says."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return body[:200].decode(errors="replace")
