"""Asks the other gateways over their own addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from marketplace.siblings.sibling import Sibling

ANSWER_S = 1.0
"""Who has not answered by then is left out."""


class Asking:
    """Runs in one event loop; close() it at the end."""

    def __init__(self) -> None:
        # They are on loopback: a proxy from the environment is not for them.
        self._http = httpx.AsyncClient(timeout=None, trust_env=False, verify=False)

    async def close(self) -> None:
        """Closes the connections. Idempotent."""
        await self._http.aclose()

    async def texts(self, siblings: Sequence[Sibling], path: str) -> dict[int, str]:
        """What those that answer in time answer to a GET, by their numbers."""
        answers = await asyncio.gather(*(self._text(one.url + path) for one in siblings))
        pairs = zip(siblings, answers, strict=True)
        return {one.number: text for one, text in pairs if text is not None}

    async def _text(self, url: str) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._http.get(url)
                answer.raise_for_status()
                return answer.text
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return None
