"""The site in a terminal: a live view, or plain lines where there is no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from airan.site.snapshot import (
    ENGINE_PHASES,
    ControlView,
    GpuView,
    MarketplaceView,
    PartitionView,
    SiteEvent,
    SiteSnapshot,
    format_time_of_day,
)

N_EVENTS = 6
_TREND_POINTS = 60
_BAR_WIDTH = 64
_LABEL_WIDTH = 12
_ROLE_STYLES = {"ran": "white on blue", "ai": "black on green", "free": "white on grey30"}
_SEVERITY_STYLES = {"info": "cyan", "warning": "yellow", "error": "bold red"}
_SERVICES = {
    "control": "orchestrator",
    "l1": "Layer 1",
    "engine": "engine",
    "gateway": "gateway",
}
_BLOCKS = " ▁▂▃▄▅▆▇█"
UNKNOWN = "-"


class LiveView:
    """Shows snapshots as they come; a context manager.

    On a terminal it redraws in place. Elsewhere it prints one plain line every `line_every_s`
    seconds of the snapshots' time, and every warning as it comes.
    """

    def __init__(
        self, console: Console, dashboard_url: str | None = None, line_every_s: float = 10.0
    ) -> None:
        self._console = console
        self._dashboard_url = dashboard_url
        self._line_every_s = line_every_s
        self._last_line_s: float | None = None
        self._events: deque[SiteEvent] = deque(maxlen=N_EVENTS)
        self._tokens: deque[float | None] = deque(maxlen=_TREND_POINTS)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, snapshot: SiteSnapshot, events: Sequence[SiteEvent]) -> None:
        """Shows `snapshot`, and the events since the last one."""
        self._events.extend(events)
        self._tokens.append(None if snapshot.market is None else snapshot.market.tokens_per_s)
        if self._live is not None:
            self._live.update(self._picture(snapshot), refresh=True)
        else:
            self._print_lines(snapshot, events)

    def _picture(self, snapshot: SiteSnapshot) -> RenderableType:
        parts = [render_status(snapshot, self._dashboard_url, list(self._tokens))]
        if self._events:
            parts.append(render_events(self._events))
        return Group(*parts)

    def _print_lines(self, snapshot: SiteSnapshot, events: Sequence[SiteEvent]) -> None:
        for event in events:
            if event.severity != "info":
                self._print(
                    f"{format_time_of_day(event.site_time_s)} {event.kind}: {event.message}"
                )
        last_s = self._last_line_s
        if last_s is None or snapshot.time_s - last_s >= self._line_every_s:
            self._last_line_s = snapshot.time_s
            self._print(plain_line(snapshot))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def render_status(
    snapshot: SiteSnapshot,
    dashboard_url: str | None = None,
    tokens_trend: Sequence[float | None] = (),
) -> RenderableType:
    """The site at one glance; what is simulated stands in the first line."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="bold", width=_LABEL_WIDTH, no_wrap=True)
    rows.add_column()
    if snapshot.control is not None:
        _add_control(rows, snapshot.control)
    if snapshot.market is not None:
        _add_market(rows, snapshot.market, tokens_trend)
    for problem in snapshot.problems:
        name = _SERVICES.get(problem.service, problem.service)
        away_s = snapshot.time_s - problem.since_s
        rows.add_row(Text(name, style="bold red"), f"[red]{problem.message}[/], for {away_s:.0f} s")
    title = Text.assemble((f" {snapshot.site} ", "bold"), _clock(snapshot))
    subtitle = f"dashboard {dashboard_url}" if dashboard_url else None
    return Panel(
        Group(_label(snapshot), rows),
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="left",
        border_style="red" if snapshot.problems else "bright_black",
    )


def render_events(events: Sequence[SiteEvent] | deque[SiteEvent]) -> RenderableType:
    """Events, the newest last."""
    rows = Table.grid(padding=(0, 1))
    for event in events:
        rows.add_row(
            Text(format_time_of_day(event.site_time_s), style="dim"),
            Text(event.kind, style=_SEVERITY_STYLES.get(event.severity, "")),
            Text(event.message),
        )
    return Panel(rows, title="events", title_align="left", border_style="bright_black")


def plain_line(snapshot: SiteSnapshot) -> str:
    """The site in one line, for logs."""
    parts = [f"{format_time_of_day(snapshot.site_time_s)} [{snapshot.label}]"]
    control, market = snapshot.control, snapshot.market
    if control is not None:
        shares = control.shares
        parts.append(
            f"RAN {_percent(shares.ran_held)} held, {_percent(shares.ran_demand)} needed"
            f" | AI {_percent(shares.ai_leased)} leased"
        )
        if control.slots is not None:
            slots = control.slots
            parts.append(
                f"slots {slots.slots:,}, {slots.slots_late:,} late,"
                f" p99 {_ms(slots.p99_us)} of {_ms(slots.budget_us)}"
            )
    if market is not None:
        requests = market.requests
        parts.append(
            f"{market.tokens_per_s:.0f} tokens/s | requests {requests.completed} done,"
            f" {requests.running} running, {requests.waiting} waiting,"
            f" {requests.preempted} preempted | ${market.revenue_usd:.4f}"
        )
    for problem in snapshot.problems:
        parts.append(f"{_SERVICES.get(problem.service, problem.service)} {problem.message}")
    return " | ".join(parts)


def _clock(snapshot: SiteSnapshot) -> str:
    speed = "" if snapshot.day_speed == 1 else f", {snapshot.day_speed:g}x wall clock"
    return f"{format_time_of_day(snapshot.site_time_s)} site time{speed} "


def _label(snapshot: SiteSnapshot) -> Text:
    style = "bold black on yellow" if snapshot.simulated else "bold"
    return Text(f" {snapshot.label} " if snapshot.label else "", style=style)


def _add_control(rows: Table, control: ControlView) -> None:
    for gpu in control.gpus:
        rows.add_row("GPU", f"{gpu.name}, {gpu.sm_count} SMs, {gpu.memory_mib // 1024} GiB")
        rows.add_row("", partition_bar(gpu))
    shares, use = control.shares, control.utilisation
    rows.add_row(
        "RAN",
        f"{_percent(shares.ran_held)} held, {_percent(shares.ran_demand)} needed now, "
        f"{_percent(shares.ran_forecast)} expected",
    )
    rows.add_row(
        "AI", f"{_percent(shares.ai_leased)} leased, {_percent(shares.ai_busy)} generating"
    )
    rows.add_row(
        "Utilisation", f"[bold]{use.total:.1%}[/] since start, RAN only {use.ran_only:.1%}"
    )
    if control.slots is not None:
        slots = control.slots
        late = "green" if slots.slots_late == 0 else "bold red"
        slowed = f", slowed clock {slots.slowdown:g}x" if slots.slowdown > 1 else ""
        rows.add_row(
            "Slots",
            f"{slots.slots:,}, [{late}]{slots.slots_late:,} late[/], p50 {_ms(slots.p50_us)}, "
            f"p99 {_ms(slots.p99_us)}, max {_ms(slots.max_us)} "
            f"of {_ms(slots.budget_us)} budget{slowed}",
        )
    if control.plan is not None:
        plan = control.plan
        text = f"{control.policy.kind}; plan {plan.generation} {plan.state}: {plan.reason}"
        rows.add_row("Policy", Text(text))


def _add_market(rows: Table, market: MarketplaceView, trend: Sequence[float | None]) -> None:
    requests, tokens = market.requests, market.tokens
    rows.add_row("Inference", f"[bold]{market.tokens_per_s:5.1f}[/] tokens/s {sparkline(trend)}")
    rows.add_row(
        "Requests",
        f"{requests.completed:,} completed, {requests.running:,} running, "
        f"{requests.waiting:,} waiting, {requests.preempted:,} preempted, "
        f"{requests.failed:,} failed",
    )
    lost = "green" if tokens.lost == 0 else "bold red"
    first_token = (
        "" if market.ttft_p50_ms is None else f", first token {market.ttft_p50_ms:,.0f} ms"
    )
    rows.add_row(
        "Tokens", f"{tokens.output:,} generated, [{lost}]{tokens.lost:,} lost[/]{first_token}"
    )
    rows.add_row("Revenue", f"[bold]${market.revenue_usd:,.4f}[/]")
    for engine in market.engines:
        use = f"{engine.running} of {engine.max_concurrent} in use"
        rows.add_row(
            "Engine", f"{engine.name} {ENGINE_PHASES.get(engine.phase, engine.phase)}, {use}"
        )


def partition_bar(gpu: GpuView) -> Text:
    """The GPU's memory slices, or without MIG its SMs, as one line, each partition with its role,
    profile and state."""

    def cells(start: int, end: int) -> int:
        per_position = _BAR_WIDTH / max(1, gpu.memory_slices)
        return round(end * per_position) - round(start * per_position)

    bar, position = Text(), 0
    for partition in gpu.partitions:
        if partition.start > position:
            bar.append(" " * cells(position, partition.start), "on grey15")
        width = cells(partition.start, partition.start + partition.size)
        text = _partition_text(partition)[: width - 1].ljust(width - 1)
        bar.append(text, _ROLE_STYLES.get(partition.role, ""))
        bar.append(" ")
        position = partition.start + partition.size
    if position < gpu.memory_slices:
        bar.append(" " * cells(position, gpu.memory_slices), "on grey15")
    return bar


def _partition_text(partition: PartitionView) -> str:
    state = partition.lease_state if partition.lease_state == "revoking" else partition.state
    shown_state = "" if state == "ready" else f" {state}"
    role = partition.role.upper() if partition.role != "free" else "free"
    return f" {role} {partition.profile}{shown_state} {partition.sm_count} SMs"


def sparkline(values: Sequence[float | None]) -> str:
    """The values as a row of blocks, scaled to their maximum; a gap where there is none."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    steps = len(_BLOCKS) - 1
    return "".join(
        " " if value is None else _BLOCKS[round(max(value, 0.0) / top * steps)] for value in values
    )


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def _ms(value_us: float | None) -> str:
    return UNKNOWN if value_us is None else f"{value_us / 1000:.1f} ms"
