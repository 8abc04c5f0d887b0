"""Reading a running site from outside: one snapshot, its events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from airan.site.market_reader import HttpMarketReader
from airan.site.runtime import SiteRuntime
from airan.site.snapshot import SiteEvent, SiteSnapshot
from airan.site.snapshot_source import SnapshotSource
from orchestrator.api.client import ControlClient


@contextlib.asynccontextmanager
async def snapshot_source(runtime: SiteRuntime) -> AsyncIterator[SnapshotSource]:
    """A source of snapshots of the site; closes its connections with the block."""
    async with contextlib.AsyncExitStack() as stack:
        control = await stack.enter_async_context(ControlClient(runtime.control_address))
        market = HttpMarketReader(runtime.gateway_url, runtime.admin_key)
        stack.push_async_callback(market.aclose)
        name, day = runtime.config.name, runtime.day_clock
        yield SnapshotSource(name, day, control, market, supervision=runtime.supervision)


async def read_snapshot(runtime: SiteRuntime) -> SiteSnapshot:
    """The site now; services that are away are named in `problems`."""
    async with snapshot_source(runtime) as source:
        return await source.snapshot()


async def read_events(runtime: SiteRuntime) -> list[SiteEvent]:
    """Every stored event, oldest first."""
    async with snapshot_source(runtime) as source:
        found: list[SiteEvent] = []
        while more := await source.new_events():
            found += more
        return found
