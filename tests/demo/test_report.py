"""The demo's terminal view, report and plot over a scripted day."""

import io
import json
import struct
from pathlib import Path

import pytest
from rich.console import Console

from airan.core.errors import UnavailableError
from airan.demo.plot import save_plot
from airan.demo.report import DemoRun, Recorder, build_report, histogram_quantile, render_report
from airan.demo.view import LiveView, partition_bar, render_status, sparkline
from airan.site.snapshot import GpuView, PartitionView, SlotsView
from tests.dashboard.scripted_site import ScriptedSite

RUN = DemoRun(wall_s=181.0, site_hours=24.0, longest_pause_s=7.25, notes=("Load: generated.",))
REQUIRED = {
    "simulated",
    "slots",
    "slots_late",
    "slot_budget_us",
    "requests_completed",
    "requests_preempted",
    "tokens_generated",
    "tokens_lost",
    "utilisation",
    "utilisation_ran_only",
    "revenue_usd",
}


async def record(seconds: int, view: LiveView | None = None) -> Recorder:
    site, recorder = ScriptedSite(), Recorder()
    source = site.source()
    for _ in range(seconds):
        site.advance(1.0)
        snapshot, events = await source.snapshot(), await source.new_events()
        recorder.add(snapshot, events)
        if view is not None:
            view.update(snapshot, events)
    return recorder


async def test_the_report_has_the_promised_keys_and_becomes_json() -> None:
    report = build_report(await record(180), RUN)
    values = json.loads(json.dumps(report.to_dict()))
    assert values.keys() >= REQUIRED
    assert values["simulated"] is True
    assert values["slot_budget_us"] == 50_000
    assert values["slot_slowdown"] == 40
    assert values["lease_revocations"] == 4
    assert values["utilisation"] > values["utilisation_ran_only"] > 0
    assert values["longest_pause_s"] == 7.25
    assert "Load: generated." in values["notes"]


async def test_the_report_says_what_is_simulated_and_which_clock_slots_ran_on() -> None:
    console = Console(width=110, file=io.StringIO())
    console.print(render_report(build_report(await record(180), RUN)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "SIMULATED GH200-96GB" in text
    assert "slot clock slowed 40x" in text
    assert "load of the other 17 is simulated" in text


async def test_the_report_keeps_the_last_known_counters_of_a_service_that_went_away() -> None:
    site, recorder = ScriptedSite(), Recorder()
    source = site.source()
    site.advance(30.0)
    recorder.add(await source.snapshot(), [])
    site.market_away = "cannot be reached"
    recorder.add(await source.snapshot(), [])
    assert build_report(recorder, RUN).requests_completed == 30


def test_there_is_no_report_of_a_site_that_never_answered() -> None:
    with pytest.raises(UnavailableError, match="orchestrator never answered"):
        build_report(Recorder(), RUN)


def slots_with(counts: tuple[int, ...]) -> SlotsView:
    return SlotsView(
        slots=sum(counts),
        slots_late=0,
        slots_dropped=0,
        crc_failed=0,
        p50_us=None,
        p99_us=None,
        max_us=None,
        busy_share=None,
        budget_us=300.0,
        slowdown=1.0,
        device="CPU",
        histogram_counts=counts,
        histogram_edges_us=(100.0, 200.0, 300.0),
    )


@pytest.mark.parametrize(
    ("counts", "quantile", "expected"),
    [
        ((10, 0, 0, 0), 0.5, 50.0),
        ((0, 10, 0, 0), 0.5, 150.0),
        ((50, 50, 0, 0), 0.75, 150.0),
        ((98, 0, 0, 2), 0.99, 300.0),
        ((0, 0, 0, 0), 0.5, None),
    ],
)
def test_quantiles_come_from_the_histogram(
    counts: tuple[int, ...], quantile: float, expected: float | None
) -> None:
    assert histogram_quantile(slots_with(counts), quantile) == expected


async def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    recorder = await record(180)
    path = tmp_path / "plots" / "day.png"
    save_plot(recorder, build_report(recorder, RUN), path)
    head = path.read_bytes()
    assert head.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", head[16:24])
    assert width > 1000
    assert height > 800
    assert len(head) > 50_000


async def test_a_terminal_gets_a_picture_redrawn_in_place() -> None:
    console = Console(width=110, height=40, file=io.StringIO(), force_terminal=True)
    with LiveView(console, "http://127.0.0.1:8090/") as view:
        await record(60, view)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "SIMULATED GH200-96GB · slot clock slowed 40x" in text
    assert "http://127.0.0.1:8090/" in text
    assert "lease.revoked" in text


async def test_a_log_gets_one_plain_line_every_ten_seconds_and_warnings_at_once() -> None:
    console = Console(width=80, file=io.StringIO())
    with LiveView(console, "http://127.0.0.1:8090/") as view:
        await record(60, view)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum("tokens/s" in line for line in lines) == 6
    assert sum("lease.revoked" in line for line in lines) == 2
    assert all("\x1b" not in line for line in lines)


async def test_the_view_names_a_service_that_is_away() -> None:
    site = ScriptedSite(control_away="cannot be reached", market_away="cannot be reached")
    console = Console(width=100, file=io.StringIO())
    console.print(render_status(await site.source().snapshot()))
    assert isinstance(console.file, io.StringIO)
    assert "orchestrator" in console.file.getvalue()
    assert "gateway" in console.file.getvalue()


async def test_the_partition_bar_is_as_wide_as_the_gpu() -> None:
    site = ScriptedSite()
    site.advance(5.0)
    snapshot = await site.source().snapshot()
    assert snapshot.control is not None
    bar = partition_bar(snapshot.control.gpus[0])
    assert len(bar.plain) == 64
    assert "AI 4g.48gb" in bar.plain
    assert "RAN" in bar.plain


def test_without_mig_the_partition_bar_is_drawn_by_sms() -> None:
    def part(role: str, start: int, size: int) -> PartitionView:
        return PartitionView(
            f"PART-{role}", "green", f"green.{size}", role, start, size, size, 1000, "ready"
        )

    gpu = GpuView(
        "GPU-1", "H100", False, 132, 81_559, 132, (part("ran", 0, 64), part("ai", 64, 68))
    )
    bar = partition_bar(gpu).plain
    assert len(bar) == 64
    assert bar.index("AI green.68") == round(64 * 64 / 132) + 1


def test_a_sparkline_scales_to_its_maximum_and_leaves_gaps() -> None:
    assert sparkline([0.0, None, 4.0, 8.0]) == "  ▄█"
