"""Work that another airan site keeps: sent once, however often it is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from airan.core.errors import ConfigError, UnavailableError
from marketplace.engines.base import FinishReason, Message, SamplingParams
from marketplace.engines.external import (
    FAILURES,
    ExternalEngine,
    ExternalSettings,
    error_body,
    finish_of,
    key_headers,
    usage_of,
)
from marketplace.engines.text import TextChunk, Usage

_PAUSE_S = 0.5
_IN_FLIGHT, _DIFFERS = "idempotency_key_in_use", "idempotency_key_reused"
_POLL_S = 10.0
_CANCEL_LIMIT_S = 5.0


class UnheardError(UnavailableError):
    """The site may have done the work, and does not say so."""


class NotAnswering(Exception):
    """This once there was no answer, or one that tells nothing."""


@dataclass(frozen=True)
class Standing:
    """How the work stands there."""

    remote_id: str
    """What the site calls it; empty: it does not say."""
    text: str = ""
    reason: FinishReason | None = None
    """None: it is not done yet."""
    usage: Usage | None = None

    def chunk(self) -> TextChunk:
        """The whole answer's last piece."""
        return TextChunk("", self.reason, self.usage)


class InvokedEngine:
    """Speaks `/v2/nvcf` with the site that `settings` names."""

    def __init__(self, settings: ExternalSettings, engine: ExternalEngine) -> None:
        base = settings.url.rstrip("/").removesuffix("/v1")
        self._settings, self._engine = settings, engine
        self._invoke = f"{base}/v2/nvcf/pexec/functions/{quote(settings.model, safe='')}"
        self._status = f"{base}/v2/nvcf/pexec/status"
        # It must say something before we take the connection for dead.
        self._poll_s = min(_POLL_S, settings.read_timeout_s / 2)

    def body(self, messages: tuple[Message, ...], params: SamplingParams) -> dict[str, Any]:
        """What is asked; the same whenever the same is asked."""
        body = self._engine.body(messages, params)
        return {key: body[key] for key in body if key not in ("stream", "stream_options")}

    async def begin(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Standing:
        """Has the site take it on, once under its `Idempotency-Key`.

        Raises:
            NotAnswering: nobody knows whether it did: it is safe to ask again.
            UnheardError: it was asked for something else under that key.
            CapacityError, InvalidInputError, UnavailableError: it refuses it.
        """
        return await self._ask("POST", self._invoke, dict(headers), 0.0, json=dict(body))

    async def look(self, remote_id: str) -> Standing:
        """How it stands, after waiting some seconds for its end.

        Raises:
            NotAnswering: it was not heard of this time.
            CapacityError, InvalidInputError, UnavailableError: it failed there, or is not there.
        """
        return await self._ask("GET", f"{self._status}/{quote(remote_id)}", {}, self._poll_s)

    async def cancel(self, remote_id: str) -> Usage | None:
        """Ends it there; what it had taken by then, or None if the site was not heard of."""
        key = self._settings.key()
        try:
            async with (
                asyncio.timeout(_CANCEL_LIMIT_S),
                self._engine.http.delete(
                    f"{self._status}/{quote(remote_id)}",
                    headers=key_headers(key),
                    allow_redirects=False,
                ) as response,
            ):
                return usage_of(await response.json()) if response.status == 200 else None
        except (*FAILURES, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], poll_s: float, **content: Any
    ) -> Standing:
        try:
            key = self._settings.key()
        except ConfigError as error:
            # It may be on its way: the file of a key that is being rotated.
            raise NotAnswering(error.message) from error
        headers |= {**key_headers(key), "NVCF-POLL-SECONDS": f"{poll_s:g}"}
        try:
            async with self._engine.http.request(
                method, url, headers=headers, allow_redirects=False, **content
            ) as response:
                if response.status in (200, 202):
                    return _standing(response, await response.json())
                raise await self._why(response, key)
        except FAILURES as error:
            raise NotAnswering(type(error).__name__) from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise NotAnswering("an answer that cannot be read") from error

    async def _why(self, response: aiohttp.ClientResponse, key: str) -> Exception:
        """What an answer that is neither a result nor a promise means."""
        ended = response.headers.get("NVCF-STATUS") in ("errored", "rejected")
        if ended:
            return await self._engine.refusal(response, key)
        said = await error_body(response)
        code = _code(said)
        if code == _DIFFERS:
            return UnheardError("the peer was asked for something else under the same key")
        # A refused key, or a gateway that starts anew, says nothing of the work itself.
        known_to_it = response.method == "GET"
        passing = code == _IN_FLIGHT or response.status >= 500
        if passing or (known_to_it and response.status in (401, 403, 429)):
            return NotAnswering(f"it answers {response.status}")
        return await self._engine.refusal(response, key, said)


async def asked_until_heard(ask: Callable[[], Awaitable[Standing]], patience_s: float) -> Standing:
    """What `ask()` comes to, asked again while there is no answer.

    Raises:
        UnheardError: for `patience_s` there was none.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    while True:
        try:
            return await ask()
        except NotAnswering as error:
            if loop.time() >= deadline_s:
                text = f"the peer was not heard of for {patience_s:g} s: {error}"
                raise UnheardError(text) from error
        await asyncio.sleep(_PAUSE_S)


def _standing(response: aiohttp.ClientResponse, said: Mapping[str, Any]) -> Standing:
    remote_id = response.headers.get("NVCF-REQID", "")
    if response.status == 202:
        return Standing(remote_id or str(said["reqId"]))
    choice = said["choices"][0]
    reason = finish_of(choice["finish_reason"]) or "stop"
    return Standing(remote_id, choice["message"]["content"] or "", reason, usage_of(said))


def _code(said: bytes) -> str:
    try:
        return str(json.loads(said)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
