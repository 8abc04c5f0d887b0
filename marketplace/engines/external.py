"""Any OpenAI-compatible server by its URL, under the contract of text."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from airan.core.errors import CapacityError, ConfigError, InvalidInputError, UnavailableError
from marketplace.engines.base import FinishReason, Message, SamplingParams
from marketplace.engines.calls import CallsAsText, without_marks
from marketplace.engines.text import Resume, TextChunk, Usage

_OK, _NOT_FOUND, _TOO_MANY = 200, 404, 429
_KEY_REFUSED = (401, 403)
_REFUSED = (400, 413, 422)
FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MESSAGE_CHARS = 300
_ANSWER_BYTES = 65_536


@dataclass(frozen=True)
class ExternalSettings:
    """Where the server is and how it is asked. The key itself is never kept in here."""

    url: str
    """The base, up to and with `/v1`."""
    model: str
    """The model's name at the server."""
    key_env: str = ""
    """Environment variable that holds the API key."""
    key_file: Path | None = None
    """File that holds the API key; read at every request, so that it can be rotated."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 120.0
    """Without a byte for so long, the server counts as unreachable."""
    continues_text: bool = False
    """Whether it goes on where a last message of the assistant ends (llama.cpp, vLLM)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of every request, fresh or continued."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"external engine: {self.url!r} is no http or https URL")
        if parts.username or parts.password:
            raise ConfigError(
                f"external engine at {parts.hostname}: its URL holds credentials",
                remedy="set key_env or key_file",
            )
        if self.key_env and self.key_file:
            raise ConfigError("external engine: set key_env or key_file, not both")
        has_key = bool(self.key_env or self.key_file)
        if has_key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ConfigError(
                f"external engine at {parts.hostname}: the API key would travel unencrypted",
                remedy="use an https URL",
            )

    def key(self) -> str:
        """The API key, empty where none is configured.

        Raises:
            ConfigError: the variable or the file is missing, empty or not fit for a header.
        """
        if self.key_env:
            where, key = f"variable {self.key_env}", os.environ.get(self.key_env, "")
        elif self.key_file is not None:
            where = f"file {self.key_file}"
            try:
                key = self.key_file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"external engine: key {where} cannot be read") from error
        else:
            return ""
        key = key.strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigError(f"external engine: {where} holds no usable API key")
        return key


class ExternalEngine:
    """Talks to the server that `settings` names; it has neither token ids nor slots."""

    def __init__(self, settings: ExternalSettings) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def resume(self) -> Resume:
        """See TextEngine.resume."""
        return "text" if self._settings.continues_text else "none"

    async def answer(
        self,
        messages: Sequence[Message] | str,
        params: SamplingParams,
        *,
        answered: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[TextChunk]:
        """See TextEngine.answer. A text instead of messages is continued as it is."""
        if answered and self.resume == "none":
            raise InvalidInputError("answered", "this server cannot go on in the middle of a text")
        path = "completions" if isinstance(messages, str) else "chat/completions"
        resumed = self.resume if answered else "none"
        reason: FinishReason | None = None
        usage: Usage | None = None
        may_call = params.tools is not None and params.tools.get("tool_choice") != "none"
        calls = CallsAsText(begun=bool(answered)) if may_call else None
        key = self._settings.key()
        try:
            async with self.http.post(
                f"{self._url}/{path}",
                json=self.body(messages, params, answered),
                headers={**(headers or {}), **key_headers(key)},
                allow_redirects=False,
            ) as response:
                if response.status != _OK:
                    raise await self.refusal(response, key)
                async for event in _events(response):
                    if "error" in event:
                        raise self._lost(f"breaks off: {_message(event, key)}")
                    usage = usage_of(event) or usage
                    for choice in event.get("choices", ()):
                        if text := _text(choice, calls):
                            yield TextChunk(text, resumed=resumed)
                        reason = finish_of(choice.get("finish_reason")) or reason
        except (*FAILURES, ValueError, AttributeError, TypeError, KeyError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise self._lost(f"failed: {type(error).__name__}") from error
        if reason is None:
            raise self._lost("ended its stream before it was done")
        yield TextChunk("", reason, usage, resumed)

    async def health(self) -> bool:
        """See TextEngine.health."""
        headers = key_headers(self._settings.key())
        try:
            async with self.http.get(
                f"{self._url}/models", headers=headers, allow_redirects=False
            ) as response:
                return response.status == _OK
        except FAILURES:
            return False

    async def aclose(self) -> None:
        """See TextEngine.aclose."""
        if self._session is not None:
            await self._session.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """Made at its first use, within the event loop it belongs to."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._settings.connect_timeout_s,
                sock_read=self._settings.read_timeout_s,
            )
            # A kept connection may just be closed by the server, and a request that bills must
            # not be sent twice: each has a connection of its own.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self._session

    def body(
        self, messages: Sequence[Message] | str, params: SamplingParams, answered: str = ""
    ) -> dict[str, Any]:
        """What the server is sent."""
        if params.n_logprobs is not None:
            raise InvalidInputError("logprobs", "external engines do not report them")
        body: dict[str, Any] = {
            **self._settings.extra,
            "model": self._settings.model,
            **_asked(messages, answered),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if params.max_tokens:
            body["max_tokens"] = params.max_tokens
        if params.stops:
            body["stop"] = list(params.stops)
        if params.seed is not None:
            body["seed"] = params.seed
        body |= params.tools or {}
        if params.json_schema is not None:
            schema = {"name": "answer", "schema": dict(params.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def refusal(
        self, response: aiohttp.ClientResponse, key: str, said: bytes | None = None
    ) -> Exception:
        """The server's HTTP error as one of ours: 4xx is the request's fault, all else passes.

        `said`: its body, where that was read already.
        """
        status = response.status
        if status in _KEY_REFUSED:
            # Servers quote the key in these answers.
            return self._lost(f"refuses the API key with {status}")
        try:
            said = await error_body(response) if said is None else said
            message = _message(json.loads(said), key)
        except (ValueError, TypeError, AttributeError):
            message = "it gives no reason"
        if status == _TOO_MANY:
            after = response.headers.get("Retry-After", "")
            remedy = f"try again in {after} s" if after.isdigit() else None
            return CapacityError(f"the engine at {self._url} is full: {message}", remedy=remedy)
        if status == _NOT_FOUND:
            return InvalidInputError("model", f"the engine does not have it: {message}")
        if status in _REFUSED:
            return InvalidInputError("messages", f"the engine refuses them: {message}")
        return self._lost(f"answers {status}: {message}")

    def _lost(self, what: str) -> UnavailableError:
        return UnavailableError(f"the engine at {self._url} {what}")


async def error_body(response: aiohttp.ClientResponse) -> bytes:
    """What a refusal says, up to a length."""
    return await response.content.read(_ANSWER_BYTES)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to `[DONE]`."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    return
                yield json.loads(payload)


def key_headers(key: str) -> dict[str, str]:
    """The header that shows the key, if there is one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def _message(answer: Mapping[str, Any], key: str) -> str:
    error = answer.get("error")
    text = str(error.get("message", "") if isinstance(error, Mapping) else error or "")
    if key:
        text = text.replace(key, "***")
    return text[:_MESSAGE_CHARS] or "it gives no reason"


def _asked(messages: Sequence[Message] | str, answered: str) -> dict[str, Any]:
    if isinstance(messages, str):
        return {"prompt": messages + answered}
    said = [dict(message) for message in messages]
    if answered:
        said.append({"role": "assistant", "content": without_marks(answered)})
    return {"messages": said}


def _text(choice: Mapping[str, Any], calls: CallsAsText | None) -> str:
    """What a chat or a text completion says in this piece."""
    delta = choice.get("delta") or {}
    if calls is not None:
        return calls.text(delta)
    return str(delta.get("content") or choice.get("text") or "")


def usage_of(event: Mapping[str, Any]) -> Usage | None:
    """What an answer says it took, if it says so."""
    usage = event.get("usage")
    if not usage:
        return None
    return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def finish_of(reason: object) -> FinishReason | None:
    """Why an answer ended, in our words; None: it has not."""
    if reason is None:
        return None
    return "length" if reason == "length" else "stop"
