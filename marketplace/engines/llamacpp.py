"""llama.cpp's HTTP server as an Engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.engines.base import FinishReason, Message, SamplingParams, TokenChunk, TokenLogprob
from marketplace.engines.wire import Answer, Wire

_SEED_RANGE = 2**32 - 1
_KEPT_S = 3.0
"""How long an idle connection is kept: less than the 5 s after which llama.cpp closes it."""
ASKING = 2
"""Connections to ask on: an open one takes one of the threads of llama.cpp's server."""
_OK, _BAD_REQUEST, _UNPROCESSABLE = 200, 400, 422
_IMPOSSIBLE = -9999.0
_FAILED, _NOT_SUPPORTED = 500, 501


class LlamaCppEngine:
    """Talks to the server at `url`.

    llama.cpp does not notice a closed connection while it works through a prompt, so the prompt
    is fed in pieces of `prefill_piece_tokens`, one piece at a time over all slots: whatever is
    stopped costs at most one piece. 0 feeds prompts whole.

    `adapters`: ids of the LoRA adapters that the server was started with, in that order. llama.cpp
    itself may go on from what a slot holds of another adapter (its issue 26207), so what was not
    made here with the same one is not gone on from.
    """

    def __init__(
        self, url: str, prefill_piece_tokens: int = 0, adapters: Sequence[str] = ()
    ) -> None:
        self.url = url
        self._piece = prefill_piece_tokens
        self._adapters = tuple(adapters)
        self._made_with: dict[int, str] = {}
        """The adapter that all of what a slot holds was made with; nothing: not known."""
        self._is_alone = True
        self._prefill = asyncio.Lock()
        self._cached: dict[int, list[int]] = {}
        self._wire = Wire(url, n_asking=ASKING, kept_s=_KEPT_S)

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        slot: int,
        adapter: str = "",
    ) -> AsyncIterator[TokenChunk]:
        """See Engine.generate."""
        prompt, lora = list(prompt_token_ids), self._lora(adapter)
        if self._piece and (self._is_alone or not self._adapters):
            await self._feed(prompt, slot, adapter)
        body = {**_sampling(params), **lora, "prompt": prompt, "id_slot": slot}
        body |= {"stream": True, "return_tokens": True, "n_predict": params.max_tokens}
        body |= {"cache_prompt": self._begin(slot, adapter)}
        n_generated = respelled = 0
        try:
            # On a connection of its own: its end, wherever it comes, stops the engine, and the
            # server cannot have closed it just now, as it does after every stream.
            async with self._wire.stream("/completion", _encoded(body)) as response:
                if response.status != _OK:
                    raise _refusal(response.status, await response.read())
                held = self._cached[slot] = prompt
                async for message in _messages(response):
                    self._made_with[slot] = adapter
                    chunk = await self._chunk(message, n_generated, respelled)
                    n_generated = int(message.get("tokens_predicted", n_generated))
                    respelled = chunk.n_generated - n_generated
                    held.extend(chunk.token_ids)
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        except OSError as error:
            raise self._lost(error) from error
        raise UnavailableError(f"the engine at {self.url} ended its stream before it was done")

    def share(self, *, is_alone: bool) -> None:
        """Whether nobody but this client works on the server's slots from now on.

        Where others do, and there are adapters, nothing is gone on from: they may have been there
        between any two requests.
        """
        if is_alone != self._is_alone:
            self._made_with.clear()
            self._cached.clear()
        self._is_alone = is_alone

    def forget(self, slot: int) -> None:
        """Somebody else has worked there."""
        self._made_with.pop(slot, None)
        self._cached.pop(slot, None)

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
            return (await self._wire.ask("/health"))[0] == _OK
        except OSError:
            return False

    async def processing(self) -> list[bool]:
        """For each slot whether a request is being worked on."""
        try:
            _, answer = await self._wire.ask("/slots")
            return [bool(slot["is_processing"]) for slot in json.loads(answer)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._lost(error) from error

    async def aclose(self) -> None:
        """See Engine.aclose."""
        self._wire.close()

    def _lora(self, adapter: str) -> dict[str, Any]:
        """The scale of every adapter: left out, one would have what it had at the start."""
        if adapter and adapter not in self._adapters:
            raise UnavailableError(f"the engine at {self.url} has not loaded adapter {adapter}")
        scales = [float(one == adapter) for one in self._adapters]
        found = [{"id": number, "scale": scale} for number, scale in enumerate(scales)]
        return {"lora": found} if found else {}

    def _begin(self, slot: int, adapter: str) -> bool:
        """Whether what the slot holds may be gone on from with that adapter.

        Until the engine has said something, nobody knows what the slot holds from now on.
        """
        known = self._made_with.pop(slot, None)
        return not self._adapters or (self._is_alone and known == adapter)

    async def _feed(self, prompt: list[int], slot: int, adapter: str) -> None:
        """Fills the slot's cache piece by piece, from what it holds already up to the last piece.

        What it holds has to be known: a piece shorter than the cache would throw the rest away.
        """
        if self._adapters and self._made_with.get(slot) != adapter:
            self._cached[slot] = []
        start = _common_prefix(self._cached.get(slot, []), prompt)
        self._cached[slot] = prompt[:start]
        for end in range(start + self._piece, len(prompt), self._piece):
            body = {"prompt": prompt[:end], "id_slot": slot, "n_predict": 0, **self._lora(adapter)}
            async with self._prefill:
                await self._fed(body | {"cache_prompt": self._begin(slot, adapter)})
            self._made_with[slot] = adapter
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
            async with self._wire.stream("/completion", _encoded(body)) as response:
                answer = await response.read()
                if response.status != _OK:
                    raise _refusal(response.status, answer)
        except OSError as error:
            raise self._lost(error) from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            status, answer = await self._wire.ask(path, _encoded(body))
            if status != _OK:
                raise _refusal(status, answer, path)
            return dict(json.loads(answer))
        except (OSError, json.JSONDecodeError) as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> UnavailableError:
        return UnavailableError(
            f"the engine at {self.url} cannot be reached: {error or type(error).__name__}"
        )


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def _messages(response: Answer) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream."""
    rest = b""
    async for data in response.pieces():
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
