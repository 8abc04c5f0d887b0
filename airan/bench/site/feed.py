"""What the dashboard's pages are told, read as a page reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx

_AGAIN_S = 0.5


class FeedReader:
    """The events of the dashboard's feed, each once, from the first history on."""

    def __init__(self, url: str) -> None:
        """`url` is the dashboard's."""
        self._url = f"{url}/events"
        self._found: dict[tuple[str, int], dict[str, Any]] = {}

    async def run(self) -> None:
        """Reads until cancelled; a feed that breaks off is opened again, as a browser does."""
        async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(10.0)) as http:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    async with http.stream("GET", self._url) as response:
                        await self._read(response)
                await asyncio.sleep(_AGAIN_S)

    async def _read(self, response: httpx.Response) -> None:
        name = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name in ("event", "history"):
                body = json.loads(line.removeprefix("data: "))
                for event in body["events"] if name == "history" else [body]:
                    self._found[event["source"], event["seq"]] = event

    def between(self, from_s: float, until_s: float) -> list[dict[str, Any]]:
        """Events of a stretch of Unix time, in order."""
        inside = [one for one in self._found.values() if from_s <= one["time_s"] <= until_s]
        return sorted(inside, key=lambda one: float(one["time_s"]))
