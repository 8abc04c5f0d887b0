"""The demo's closing report: what the site did in its day, and what of that is simulated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from airan.core.errors import UnavailableError
from airan.site.series import COLUMNS, Point, point_of
from airan.site.snapshot import ControlView, MarketplaceView, SiteEvent, SiteSnapshot, SlotsView

REVOKED = "lease.revoked"


@dataclass
class Recorder:
    """Keeps what the report and the plot need while the demo runs."""

    points: list[Point] = field(default_factory=list)
    events: list[SiteEvent] = field(default_factory=list)
    control: ControlView | None = None
    """The orchestrator's last answer."""
    market: MarketplaceView | None = None
    """The marketplace's last answer."""
    label: str = ""
    first_control: ControlView | None = None
    last_control: ControlView | None = None
    """The orchestrator's first and last answer within the recorded time."""

    def add(self, snapshot: SiteSnapshot, events: list[SiteEvent]) -> None:
        """Takes in one snapshot and the events since the last one."""
        self.points.append(point_of(snapshot))
        self.events.extend(events)
        self.first_control = self.first_control or snapshot.control
        self.last_control = snapshot.control or self.last_control
        self.control = snapshot.control or self.control
        self.market = snapshot.market or self.market
        self.label = snapshot.label or self.label

    def finish(self, snapshot: SiteSnapshot, events: list[SiteEvent]) -> None:
        """Takes in the state after the last request; adds no point to the day."""
        self.events.extend(events)
        self.control = snapshot.control or self.control
        self.market = snapshot.market or self.market

    def utilisation(self) -> tuple[float, float]:
        """Total and RAN-only utilisation over the recorded time."""
        first, last = self.first_control, self.last_control
        if first is None or last is None or last.uptime_s <= first.uptime_s:
            return 0.0, 0.0

        def over(name: str) -> float:
            before, after = getattr(first.utilisation, name), getattr(last.utilisation, name)
            gained = after * last.uptime_s - before * first.uptime_s
            return max(0.0, float(gained) / (last.uptime_s - first.uptime_s))

        return over("total"), over("ran_only")

    def column(self, name: str) -> list[float | None]:
        """One figure over time; None where it was not known."""
        index = COLUMNS.index(name)
        return [point[index] for point in self.points]

    def revocations(self) -> list[SiteEvent]:
        """Every time the RAN took a lease back."""
        return [event for event in self.events if event.kind == REVOKED]


@dataclass(frozen=True)
class DemoRun:
    """What only the script that ran the demo knows."""

    wall_s: float
    site_hours: float
    longest_pause_s: float | None
    """Longest silence within a completed stream, as its client saw it; None: no stream."""
    notes: tuple[str, ...] = ()
    """Sources and assumptions beyond the standing ones."""


@dataclass(frozen=True)
class DemoReport:
    """The figures of one demo run. Slot times are on the slowed slot clock."""

    simulated: bool
    gpu: str
    device: str
    """What decoded the slots."""
    site_hours: float
    wall_s: float
    slots: int
    slots_late: int
    slots_dropped: int
    crc_failed: int
    slot_stalls: int
    """Slots for which the slot clock stood still, because the simulated radio was not ready."""
    slot_budget_us: float
    slot_slowdown: float
    slot_p50_us: float | None
    """Over the whole run, interpolated within the latency histogram's buckets."""
    slot_p99_us: float | None
    requests_received: int
    requests_completed: int
    requests_preempted: int
    requests_failed: int
    requests_cancelled: int
    tokens_input: int
    tokens_generated: int
    tokens_lost: int
    time_to_first_token_p50_ms: float | None
    time_to_first_token_p99_ms: float | None
    lease_revocations: int
    longest_pause_s: float | None
    utilisation: float
    """Time-weighted share of all SMs in use, in [0, 1]."""
    utilisation_ran_only: float
    """The same without AI."""
    revenue_usd: float
    notes: tuple[str, ...]
    """What is simulated, and where figures come from."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return asdict(self) | {"notes": list(self.notes)}


def build_report(recorder: Recorder, run: DemoRun) -> DemoReport:
    """Sums up what was recorded.

    Raises:
        UnavailableError: the orchestrator, Layer 1 or the marketplace never answered.
    """
    control, market = recorder.control, recorder.market
    slots = None if control is None else control.slots
    if control is None:
        raise _never_answered("orchestrator")
    if slots is None:
        raise _never_answered("Layer 1")
    if market is None:
        raise _never_answered("marketplace")
    total, ran_only = recorder.utilisation()
    gpu = control.gpus[0] if control.gpus else None
    return DemoReport(
        simulated=gpu is not None and gpu.simulated,
        gpu="none" if gpu is None else gpu.name,
        device=slots.device,
        site_hours=run.site_hours,
        wall_s=run.wall_s,
        slots=slots.slots,
        slots_late=slots.slots_late,
        slots_dropped=slots.slots_dropped,
        crc_failed=slots.crc_failed,
        slot_stalls=slots.stalls,
        slot_budget_us=slots.budget_us,
        slot_slowdown=slots.slowdown,
        slot_p50_us=histogram_quantile(slots, 0.50),
        slot_p99_us=histogram_quantile(slots, 0.99),
        requests_received=market.requests.received,
        requests_completed=market.requests.completed,
        requests_preempted=market.requests.preempted,
        requests_failed=market.requests.failed,
        requests_cancelled=market.requests.cancelled,
        tokens_input=market.tokens.input,
        tokens_generated=market.tokens.output,
        tokens_lost=market.tokens.lost,
        time_to_first_token_p50_ms=market.ttft_p50_ms,
        time_to_first_token_p99_ms=market.ttft_p99_ms,
        lease_revocations=len(recorder.revocations()),
        longest_pause_s=run.longest_pause_s,
        utilisation=total,
        utilisation_ran_only=ran_only,
        revenue_usd=market.revenue_usd,
        notes=(*_standing_notes(control, slots), *run.notes),
    )


def _never_answered(name: str) -> UnavailableError:
    return UnavailableError(
        f"no report: the {name} never answered during the demo",
        remedy="look into the logs in the site's state folder",
    )


def histogram_quantile(slots: SlotsView, quantile: float) -> float | None:
    """A latency quantile in us, taken as spread evenly within its bucket.

    In the open last bucket the answer is that bucket's lower edge. None without slots.
    """
    total = sum(slots.histogram_counts)
    if total == 0:
        return None
    wanted, below = quantile * total, 0
    edges = (0.0, *slots.histogram_edges_us)
    for lower, upper, n in zip(edges, edges[1:], slots.histogram_counts, strict=False):
        if n and below + n >= wanted:
            return lower + (upper - lower) * (wanted - below) / n
        below += n
    return edges[-1]


def _standing_notes(control: ControlView, slots: SlotsView) -> tuple[str, ...]:
    notes = []
    if any(gpu.simulated for gpu in control.gpus):
        notes.append(
            f"The {control.gpus[0].name} is simulated: its partitions, placement rules and delays. "
            "Utilisation counts its SMs; slots and tokens were computed by this machine."
        )
    if slots.slowdown > 1:
        notes.append(
            f"Slots were really decoded on {slots.device}, on a slot clock slowed "
            f"{slots.slowdown:g}x; budget and latencies are on that clock."
        )
    n_simulated = sum(not cell.live for cell in control.cells)
    if n_simulated:
        notes.append(
            f"{len(control.cells) - n_simulated} of {len(control.cells)} cells decoded over a "
            f"simulated radio channel; the load of the other {n_simulated} is simulated."
        )
    notes.append("Revenue is tokens metered times the configured prices.")
    return tuple(notes)


def render_report(report: DemoReport) -> RenderableType:
    """The report for a terminal."""
    table = Table(title=_title(report), title_justify="left", show_header=False, min_width=76)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for section in (_gpu_rows(report), _slot_rows(report), _inference_rows(report)):
        for row in section:
            table.add_row(*row)
        table.add_section()
    notes = [Text(f"* {note}", style="dim") for note in report.notes]
    return Group(table, *notes)


def _title(report: DemoReport) -> Text:
    title = Text(f"{report.site_hours:g} h of site time in {report.wall_s:.0f} s  ", style="bold")
    if report.simulated:
        title.append(f" SIMULATED {report.gpu} ", style="bold black on yellow")
    if report.slot_slowdown > 1:
        title.append(f" slot clock slowed {report.slot_slowdown:g}x ", style="bold black on yellow")
    return title


Row = tuple[str, str, str]


def _gpu_rows(report: DemoReport) -> list[Row]:
    gain = ""
    if report.utilisation_ran_only > 0:
        gain = f"{report.utilisation / report.utilisation_ran_only:.1f}x"
    return [
        ("GPU utilisation", f"{report.utilisation:.1%}", "time-weighted share of all SMs"),
        ("  RAN only", f"{report.utilisation_ran_only:.1%}", f"with AI {gain}" if gain else ""),
        ("Lease revocations", f"{report.lease_revocations:,}", "the RAN took capacity back"),
    ]


def _slot_rows(report: DemoReport) -> list[Row]:
    clock = f"slowed clock, {report.slot_slowdown:g}x" if report.slot_slowdown > 1 else ""
    return [
        ("Slots", f"{report.slots:,}", f"decoded on {report.device}"),
        ("  late", f"{report.slots_late:,}", f"budget {_ms(report.slot_budget_us)}, {clock}"),
        ("  dropped", f"{report.slots_dropped:,}", ""),
        ("  CRC failed", f"{report.crc_failed:,}", ""),
        ("  clock stalls", f"{report.slot_stalls:,}", "the simulated radio was not ready"),
        ("  latency p50 / p99", f"{_ms(report.slot_p50_us)} / {_ms(report.slot_p99_us)}", clock),
    ]


def _inference_rows(report: DemoReport) -> list[Row]:
    ttft = (
        f"{_whole_ms(report.time_to_first_token_p50_ms)} / "
        f"{_whole_ms(report.time_to_first_token_p99_ms)}"
    )
    lost_style = "[bold green]" if report.tokens_lost == 0 else "[bold red]"
    pause = "-" if report.longest_pause_s is None else f"{report.longest_pause_s:.1f} s"
    return [
        ("Requests", f"{report.requests_received:,}", ""),
        ("  completed", f"{report.requests_completed:,}", ""),
        ("  preempted", f"{report.requests_preempted:,}", "paused by a revocation"),
        (
            "  failed / cancelled",
            f"{report.requests_failed:,} / {report.requests_cancelled:,}",
            "",
        ),
        ("Tokens generated", f"{report.tokens_generated:,}", f"{report.tokens_input:,} read"),
        ("  lost", f"{lost_style}{report.tokens_lost:,}[/]", ""),
        ("First token p50 / p99", ttft, "includes waiting for capacity"),
        ("Longest pause", pause, "within a stream, seen by its client"),
        ("Revenue", f"${report.revenue_usd:,.4f}", "metered tokens at configured prices"),
    ]


def _ms(value_us: float | None) -> str:
    return "-" if value_us is None else f"{value_us / 1000:.1f} ms"


def _whole_ms(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:,.0f} ms"
