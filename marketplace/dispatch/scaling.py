"""Has as many replicas run as the load calls for, wherever an engine has several."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from airan.core.clock import Clock
from airan.core.errors import InvalidInputError
from marketplace.dispatch.autoscale import Autoscaler, ScaleRules

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_TIMEOUT_S = 2.0
_KNOWN = ("model", "wanted", "max_replicas", "sm_per_replica", "streams_per_replica", "sm_count")


class ReplicaScaler:
    """Asks each replica set at `urls` how it stands and tells it how many are wanted.

    `load(model)` gives the requests running and waiting. Several sets of one model share its load
    by what their leases carry.
    """

    def __init__(
        self, urls: Sequence[str], load: Callable[[str], int], clock: Clock, *, hold_s: float = 30.0
    ) -> None:
        self._urls = tuple(urls)
        self._load = load
        self._clock = clock
        self._hold_s = hold_s
        self._scalers: dict[str, Autoscaler] = {}
        self._silent: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, if there is anything to look at."""
        if self._urls:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends that. The replicas stay as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self, http: httpx.AsyncClient) -> None:
        """One round: a set that does not answer is left out of it."""
        found = {url: await self._ask(http, url) for url in self._urls}
        sets = {url: values for url, values in found.items() if values is not None}
        for url, values in sets.items():
            scaler = self._scaler(url, values)
            carried = scaler.rules.carried_by(values["sm_count"])
            others = sum(
                self._scaler(other, one).rules.carried_by(one["sm_count"])
                for other, one in sets.items()
                if one["model"] == values["model"] and other != url
            )
            share = carried / (carried + others) if carried else 0.0
            n_requests = math.ceil(self._load(values["model"]) * share)
            wanted = scaler.decide(n_requests, values["sm_count"], self._clock.monotonic_s())
            # Without a lease nothing can run; what is wanted then is what begins with the next.
            wanted = max(wanted, scaler.rules.min_replicas)
            if wanted != values["wanted"]:
                await self._tell(http, url, wanted)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as http:
            while True:
                await self.look(http)
                await asyncio.sleep(_LOOK_S)

    def _scaler(self, url: str, values: dict[str, Any]) -> Autoscaler:
        rules = ScaleRules(
            sm_per_replica=values["sm_per_replica"],
            streams_per_replica=values["streams_per_replica"],
            max_replicas=values["max_replicas"],
            hold_s=self._hold_s,
        )
        scaler = self._scalers.get(url)
        if scaler is None or scaler.rules != rules:
            scaler = self._scalers[url] = Autoscaler(rules)
        return scaler

    async def _ask(self, http: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
        try:
            values = (await http.get(f"{url}/replicas")).raise_for_status().json()
            found = {name: values[name] for name in _KNOWN}
            self._scaler(url, found)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, InvalidInputError) as error:
            if url not in self._silent:
                log.warning("the replicas at %s do not say how they stand: %s", url, error)
            self._silent.add(url)
            return None
        self._silent.discard(url)
        return found

    async def _tell(self, http: httpx.AsyncClient, url: str, wanted: int) -> None:
        try:
            (await http.put(f"{url}/replicas", json={"wanted": wanted})).raise_for_status()
        except httpx.HTTPError as error:
            log.warning(
                "the replicas at %s were not told that %d are wanted: %s", url, wanted, error
            )
