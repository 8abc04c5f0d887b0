"""A dashboard that runs over the scripted site, and a Chromium to look at it."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from airan.dashboard.app import serve
from airan.dashboard.settings import DashboardSettings
from airan.site.snapshot import SiteEvent, SiteSnapshot
from airan.site.snapshot_source import SnapshotSource
from tests.dashboard.scripted_site import ScriptedSite

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
INTERVAL_S = 0.1


@dataclass
class SteppingSource:
    """Moves the scripted site on by `step_s` with every poll."""

    site: ScriptedSite
    step_s: float = 1.0
    inner: SnapshotSource = field(init=False)

    def __post_init__(self) -> None:
        self.inner = self.site.source()

    async def snapshot(self) -> SiteSnapshot:
        self.site.advance(self.step_s)
        return await self.inner.snapshot()

    async def new_events(self) -> list[SiteEvent]:
        return await self.inner.new_events()


def settings_for(site: ScriptedSite, port: int = 0) -> DashboardSettings:
    return DashboardSettings(
        site="edge-1",
        control_address="",
        gateway_url="",
        admin_key="",
        day=site.day,
        port=port,
        interval_s=INTERVAL_S,
    )


@dataclass
class RunningDashboard:
    """A dashboard that can be stopped and started again on its port."""

    site: ScriptedSite
    source: SteppingSource
    url: str = ""
    stop_event: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        port = int(self.url.rsplit(":", 1)[1].strip("/")) if self.url else 0
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stop_event = asyncio.Event()
        self.task = asyncio.create_task(
            serve(settings_for(self.site, port), self.stop_event, ready.set_result, self.source)
        )
        await asyncio.wait({self.task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            await self.task
        self.url = await ready

    async def stop(self) -> None:
        self.stop_event.set()
        if self.task is not None:
            await asyncio.wait_for(self.task, 30)


@pytest.fixture
async def dashboard() -> AsyncIterator[RunningDashboard]:
    site = ScriptedSite()
    running = RunningDashboard(site, SteppingSource(site))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def open_page() -> AsyncIterator[Callable[[str, int, int], Awaitable[Any]]]:
    """Opens a page in headless Chromium: `await open_page(url, width, height)`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        pytest.fail("the browser tests need playwright: run `make setup-test`")
    if chromium is None:
        pytest.fail("the browser tests need Chromium: run `make setup-test`")
    async with contextlib.AsyncExitStack() as stack:
        driver = await stack.enter_async_context(async_playwright())
        browser = await driver.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        stack.push_async_callback(browser.close)

        async def open_(url: str, width: int = 1440, height: int = 900) -> Any:
            page = await browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(45_000)
            page.complaints = []
            page.requested = []
            page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else 0)
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("request", lambda request: page.requested.append(request.url))
            await page.goto(url)
            return page

        yield open_
