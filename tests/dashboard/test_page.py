"""The page in headless Chromium, over the scripted site."""

import asyncio

import pytest

from tests.dashboard.conftest import RunningDashboard

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


@pytest.fixture
def expect():
    from playwright.async_api import expect

    expect.set_options(timeout=45_000)
    return expect


async def test_the_page_draws_the_partitions_of_the_gpu(dashboard, open_page, expect) -> None:
    dashboard.source.step_s = 0.001
    page = await open_page(dashboard.url)
    partitions = page.locator(".partition:not(.leaving)")
    await expect(partitions).to_have_count(3)
    roles = [await partitions.nth(n).get_attribute("data-role") for n in range(3)]
    assert roles == ["ai", "ran", "free"]
    ai = await partitions.nth(0).bounding_box()
    ran = await partitions.nth(1).bounding_box()
    assert ai["width"] / ran["width"] == pytest.approx(2.0, abs=0.1)
    await expect(partitions.nth(0)).to_contain_text("4g.48gb")
    await expect(partitions.nth(0)).to_contain_text("64 SMs")


async def test_the_screen_says_what_is_simulated(dashboard, open_page, expect) -> None:
    page = await open_page(dashboard.url)
    await expect(page.locator("#label")).to_have_text(
        "SIMULATED GH200-96GB · slot clock slowed 40×"
    )
    await expect(page.locator("#label")).to_be_visible()
    await expect(page.locator("#cells-note")).to_have_text("1 decoded · 17 simulated load")
    await expect(page.locator("#histogram")).to_contain_text("clock slowed 40×")


async def test_the_page_follows_the_site_live(dashboard, open_page, expect) -> None:
    page = await open_page(dashboard.url)
    await expect(page.locator("#connection")).to_have_text("Live")
    before = await page.locator("#revenue").text_content()
    await expect(page.locator("#revenue")).not_to_have_text(before)
    # The morning peak: the RAN takes the whole GPU. It stays until the page has shown it.
    async with asyncio.timeout(30):
        while not (dashboard.site.layout == "peak" and dashboard.site.settled):
            await asyncio.sleep(0.01)
    dashboard.source.step_s = 0.001
    whole = page.locator('.partition[data-role="ran"]', has_text="7g.96gb")
    await expect(whole).to_be_visible()
    await expect(page.locator(".partition:not(.leaving)")).to_have_count(1)
    await expect(page.locator("#events")).to_contain_text("lease.revoked")
    for chart in ("shares", "latency", "tokens"):
        await expect(page.locator(f"#{chart}-chart canvas")).to_be_visible()


async def test_the_page_asks_nobody_else_and_logs_no_error(dashboard, open_page, expect) -> None:
    page = await open_page(dashboard.url)
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#tokens-chart canvas")).to_be_visible()
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith(dashboard.url)] == []


async def test_a_broken_stream_is_shown_and_healed(dashboard, open_page, expect) -> None:
    page = await open_page(dashboard.url)
    await expect(page.locator("#connection")).to_have_text("Live")
    await dashboard.stop()
    await expect(page.locator("#connection")).to_have_text("Reconnecting")
    await expect(page.locator("#banner")).to_be_visible()
    await dashboard.start()
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#banner")).to_be_hidden()
    before = await page.locator("#slots-total").text_content()
    await expect(page.locator("#slots-total")).not_to_have_text(before)


async def test_a_panel_says_that_its_service_is_away(
    dashboard: RunningDashboard, open_page, expect
) -> None:
    page = await open_page(dashboard.url)
    await expect(page.locator("#connection")).to_have_text("Live")
    dashboard.site.market_away = "cannot be reached: connection refused"
    await expect(page.locator(".tokens-panel .problem")).to_contain_text(
        "Gateway cannot be reached"
    )
    await expect(page.locator("#revenue")).to_have_text("–")
    await expect(page.locator(".gpu-panel .problem")).to_be_hidden()
    dashboard.site.market_away = None
    dashboard.site.control_away = "cannot be reached: connection refused"
    await expect(page.locator(".gpu-panel .problem")).to_contain_text("Orchestrator")
    await expect(page.locator(".partition:not(.leaving)")).to_have_count(0)
    await expect(page.locator("#slots-late")).to_have_text("–")
    await expect(page.locator(".tokens-panel .problem")).to_be_hidden()
    dashboard.site.control_away = None
    await expect(page.locator(".gpu-panel .problem")).to_be_hidden()
    await expect(page.locator("#slots-late")).to_have_text("0")
    assert page.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
async def test_the_page_fits_its_width(dashboard, open_page, expect, width, height) -> None:
    page = await open_page(dashboard.url, width, height)
    await expect(page.locator("#tokens-chart canvas")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
