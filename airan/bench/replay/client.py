"""The tenants' side: one stream a request, and what the client saw of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from airan.bench.replay.trace import Planned

_OK, _TOO_MANY = 200, 429
# Keep-alive comments come every two seconds while a request waits.
_SILENCE_S = 60.0
_TEXT = (
    "the radio cell sends each slot to a server and waits for the answer while people walk and "
    "talk on the street by day or night about rain music work food trains books rivers games "
    "friends houses gardens winter summer light water stone paper colour price time place"
)
_WORDS = _TEXT.split()
_ASK = "Go on with this text: "
_N_CUT = 3
"""Bytes of a character that is not whole, at most."""


@dataclass
class Seen:
    """One request as its client saw it; times in seconds after the replay's begin."""

    planned: Planned
    status: int = 0
    """HTTP; 0: there was no answer."""
    job: str = ""
    """The answer's id, without its prefix."""
    token_s: list[float] = field(default_factory=list)
    """When each token came that the stream told of."""
    n_spelled: int = 0
    """Tokens that may have come in one with others, as bytes of a character."""
    finish_reason: str = ""
    usage_prompt: int = 0
    usage_answer: int = 0
    preemptions: int = 0
    complete: bool = False
    """Whether the stream went to its end: finish reason, usage, [DONE]."""
    problem: str = ""
    ended_s: float = 0.0

    @property
    def accepted(self) -> bool:
        """The marketplace took it."""
        return self.status == _OK

    @property
    def refused(self) -> bool:
        """The marketplace said no: 429."""
        return self.status == _TOO_MANY

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer, as the client counts them.

        Where the model itself ended it, the last is the one that says so, which has no text: it
        is generated and billed, and does not show in the stream. We send no stop sequences.
        """
        return len(self.token_s) + (self.finish_reason == "stop")

    @property
    def n_missing(self) -> int:
        """Tokens that were billed and did not come, or the other way round.

        llama.cpp sends a character that takes several tokens at once, with the log probabilities
        of the last, and one that `max_tokens` cut in two not at all: where there are characters
        outside of ASCII, a token for each of their bytes may have come unseen.
        """
        n_more = self.usage_answer - self.n_tokens
        n_unseen = self.n_spelled + (_N_CUT if self.n_spelled else 0)
        return 0 if 0 <= n_more <= n_unseen else abs(n_more)

    @property
    def ttft_s(self) -> float | None:
        """From the moment at which it should have been sent until its first token."""
        return self.token_s[0] - self.planned.at_s if self.token_s else None

    @property
    def longest_pause_s(self) -> float:
        """Between two tokens."""
        times = self.token_s
        return max((b - a for a, b in pairwise(times)), default=0.0)


def prompt(planned: Planned, n_template: int, seed: int) -> str:
    """A text of about so many tokens, `n_template` of them the chat template's and ours.

    Plain words are one token each, so the length is as planned to a few tokens.
    """
    random_ = random.Random(f"{seed}/{planned.number}")
    n_words = max(1, planned.n_prompt - n_template)
    return _ASK + " ".join(random_.choices(_WORDS, k=n_words))


class Client:
    """Sends requests as tenants do, every one as a stream with log probabilities.

    These tell each token by itself: the client counts without believing the bill.
    """

    def __init__(
        self,
        url: str,
        model: str,
        keys: dict[str, str],
        seed: int,
        on_begun: Callable[[Seen], None] = lambda _seen: None,
    ) -> None:
        """`on_begun` gets each request before it is sent, to watch it meanwhile."""
        self._model, self._keys, self._seed = model, keys, seed
        self._on_begun = on_begun
        self.n_template = 0
        self._http = httpx.AsyncClient(
            base_url=url,
            trust_env=False,
            timeout=httpx.Timeout(_SILENCE_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._begun_s = time.monotonic()

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    def begin(self) -> None:
        """Times count from now on."""
        self._begun_s = time.monotonic()

    def now_s(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._begun_s

    async def send(self, planned: Planned) -> Seen:
        """Waits for the request's moment, sends it and reads its stream to the end."""
        seen = Seen(planned)
        self._on_begun(seen)
        await asyncio.sleep(planned.at_s - self.now_s())
        headers = {"authorization": f"Bearer {self._keys[planned.tenant.name]}"}
        try:
            stream = self._http.stream(
                "POST", "/v1/chat/completions", json=self._body(planned), headers=headers
            )
            async with stream as response:
                seen.status = response.status_code
                if seen.accepted:
                    await self._read(response, seen)
                else:
                    seen.problem = (await response.aread())[:300].decode(errors="replace")
        except httpx.HTTPError as error:
            seen.problem = f"{type(error).__name__}: {error}"
        seen.ended_s = self.now_s()
        return seen

    def _body(self, planned: Planned) -> dict[str, Any]:
        text = prompt(planned, self.n_template, self._seed)
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": planned.n_answer,
            "service_tier": planned.tenant.tier,
            "temperature": 0,
            "logprobs": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _read(self, response: httpx.Response, seen: Seen) -> None:
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                seen.complete = bool(seen.finish_reason and seen.usage_prompt)
            elif line.startswith("data: "):
                take_event(seen, json.loads(line[6:]), self.now_s())
        if not seen.complete and not seen.problem:
            seen.problem = "the stream ended early"


def _spelled(token: dict[str, Any]) -> int:
    """Further tokens that may have gone into what a log probability was reported for."""
    return 0 if str(token["token"]).isascii() else len(str(token["token"]).encode()) - 1


def take_event(seen: Seen, event: dict[str, Any], now_s: float) -> None:
    """Adds an event of the stream."""
    if "error" in event:
        seen.problem = str(event["error"].get("message"))
        return
    seen.job = str(event["id"]).removeprefix("chatcmpl-")
    if event.get("usage"):
        seen.usage_prompt = int(event["usage"]["prompt_tokens"])
        seen.usage_answer = int(event["usage"]["completion_tokens"])
    seen.preemptions = event.get("airan", {}).get("preemptions", seen.preemptions)
    for choice in event["choices"]:
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        seen.token_s += [now_s] * len(tokens)
        seen.n_spelled += sum(map(_spelled, tokens))
        seen.finish_reason = choice["finish_reason"] or seen.finish_reason
