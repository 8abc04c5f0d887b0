"""The demo's tenants: real HTTP clients that ask the gateway for chat completions, streamed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from airan.core.errors import AiranError, UnavailableError
from sims.llm_load import LlmRequest

# What edge tenants ask for (after the applications shown in SoftBank's AI-RAN trial): a vehicle's
# remote-support desk, a factory assistant, a robot.
SITUATIONS = (
    "You assist the remote-support desk of autonomous buses. A delivery van blocks the right lane "
    "ahead, two pedestrians wait at the crossing and the bus stands still. Describe the risk and "
    "suggest what the operator should do.",
    "You are a factory assistant. The spindle of milling machine 7 vibrates at 180 Hz since the "
    "tool change and the surface is rough. List likely causes and what to check first.",
    "You guide a warehouse robot. The aisle is blocked by a pallet and the battery is at 40 "
    "percent. Plan the next steps and explain them to the shift lead.",
    "You summarise camera notes for a control room: fog on the bridge, three cars with hazard "
    "lights, one lane closed, a tow truck on its way. Write a short report.",
)
FILLER = "Note from the log: all other readings are normal and no alarm is active. "
TOKENS_PER_FILLER = 16


@dataclass
class Outcome:
    """What one tenant saw of one request."""

    arrival_s: float
    complete: bool = False
    first_token_s: float | None = None
    """Unix seconds of the first token."""
    ended_s: float = 0.0
    completion_tokens: int = 0
    longest_pause_s: float = 0.0
    text: str = ""
    error: str | None = None


@dataclass
class TenantLoad:
    """Sends the day's requests at their times and keeps what came back."""

    gateway_url: str
    keys: Sequence[str]
    model: str
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, requests: Sequence[LlmRequest], begin_s: float, speed: float) -> None:
        """Plays `requests`, whose arrivals are site seconds after `begin_s` (Unix seconds).

        Returns when every request has ended.
        """
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        timeout = httpx.Timeout(30.0, read=None)
        async with (
            httpx.AsyncClient(
                base_url=self.gateway_url, limits=limits, timeout=timeout, trust_env=False
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for number, request in enumerate(requests):
                delay_s = begin_s + request.arrival_s / speed - time.time()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                outcome = Outcome(arrival_s=time.time())
                self.outcomes.append(outcome)
                group.create_task(self._ask(client, number, request, outcome))

    async def _ask(
        self, client: httpx.AsyncClient, number: int, request: LlmRequest, outcome: Outcome
    ) -> None:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt(request.context_tokens, number)}],
            "max_tokens": request.generated_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {self.keys[number % len(self.keys)]}"}
        try:
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    outcome.error = f"{response.status_code}: {response.text[:200]}"
                    return
                await _read(response, outcome)
        except httpx.HTTPError as error:
            outcome.error = f"{type(error).__name__}: {error}"
        finally:
            outcome.ended_s = time.time()


async def _read(response: httpx.Response, outcome: Outcome) -> None:
    last_s: float | None = None
    parts: list[str] = []
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            outcome.complete = True
            break
        event = json.loads(data)
        if "error" in event:
            outcome.error = str(event["error"].get("message"))
            continue
        if event.get("usage"):
            outcome.completion_tokens = event["usage"]["completion_tokens"]
        if not any(choice["delta"].get("content") for choice in event["choices"]):
            continue
        now_s = time.time()
        if last_s is None:
            outcome.first_token_s = now_s
        else:
            outcome.longest_pause_s = max(outcome.longest_pause_s, now_s - last_s)
        last_s = now_s
        parts.extend(choice["delta"].get("content") or "" for choice in event["choices"])
    outcome.text = "".join(parts)


def prompt(context_tokens: int, number: int) -> str:
    """A tenant's prompt of roughly `context_tokens` tokens."""
    situation = SITUATIONS[number % len(SITUATIONS)]
    spare = max(0, context_tokens - 75) // TOKENS_PER_FILLER
    return FILLER * spare + situation + f" (case {random.Random(number).randint(100, 999)})"


async def make_tenants(gateway_url: str, admin_key: str, names: Sequence[str]) -> list[str]:
    """Creates one tenant and one API key for each name; returns the keys.

    Raises:
        UnavailableError: the gateway refused.
    """
    keys = []
    headers = {"Authorization": f"Bearer {admin_key}"}
    async with httpx.AsyncClient(
        base_url=gateway_url, headers=headers, timeout=30.0, trust_env=False
    ) as client:
        for name in names:
            tenant = _checked(await client.post("/admin/v1/tenants", json={"name": name}))
            key = _checked(
                await client.post("/admin/v1/keys", json={"tenant": tenant["id"], "name": "demo"})
            )
            keys.append(str(key["key"]))
    return keys


def _checked(response: httpx.Response) -> dict[str, object]:
    if response.is_error:
        error: AiranError = UnavailableError(
            f"the gateway refused {response.request.url.path}: {response.text[:200]}",
            remedy="see gateway.log in the site's log folder",
        )
        raise error
    body: dict[str, object] = response.json()
    return body
