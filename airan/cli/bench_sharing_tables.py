"""The tables that `airan bench sharing` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from airan.cli.output import console, table

if TYPE_CHECKING:
    from airan.bench.sharing.day import DayReport, Followed

_TITLES = {
    "kernels": "Slots in DDDSU at 0.5 ms pace, kernels on the GPU, us",
    "latency": "The same slots from when they were due to their results on the host, us",
}


def print_ways(report: dict[str, Any]) -> None:
    """Prints one comparison of ways; `report` is a SharingReport as plain values."""
    _print_device(report["device"], report["started"], report["ai"])
    results = report["results"]
    for what, title in _TITLES.items():
        lines = [_line(one, channel, what) for one in results for channel in one["channels"]]
        columns = ("run", "channel", "p50", "p99", "p99.9", "max", "late", "dropped", "of")
        table(title, columns, lines)
    beside = [(one["name"], *_beside(one)) for one in results]
    table(
        "p99.9 of kernels, times the same slots alone on the same SMs; the AI",
        ("run", "PUSCH", "PDSCH", "tokens/s", "of alone"),
        beside,
    )


def print_day(day: DayReport) -> None:
    """Prints a day."""
    _print_device(day.device, day.started, day.ai)
    options = day.options
    table(
        f"{options.hours:g} h of {options.n_cells} cells in {day.length_s:.0f} s, kernels, us",
        ("channel", "slots", "late", "dropped", "p50", "p99", "p99.9", "max"),
        [
            (one.channel, one.slots, one.late, one.dropped, *_times(one.kernels))
            for one in day.slots
        ],
    )
    table(
        "Of the time in each gear (SMs: RAN + AI)",
        ("gear", "share"),
        [(gear, f"{share:.1%}") for gear, share in day.gear_share.items()],
    )
    share = day.tokens_per_s / day.alone_tokens_per_s if day.alone_tokens_per_s else 0.0
    table(
        "The AI, and multiprocessors' time",
        ("what", "figure"),
        [
            ("tokens/s", f"{day.tokens_per_s:,.0f}, {share:.1%} of alone on the whole GPU"),
            ("requests that ended", f"{day.requests_ended:,}"),
            ("of these with lost tokens", f"{day.requests_wrong:,}"),
            ("ended between revocations", f"{day.pause_requests_ended:,}"),
            ("of these with lost tokens", f"{day.pause_requests_wrong:,}"),
            ("alarm until the slots have the gear", _followed(day.up_slots)),
            ("SM time given to a side", f"{day.held_share:.1%}"),
            ("SM time with slots' kernels", f"{day.ran_busy_share:.1%}"),
            ("SM time with the AI's steps", f"{day.ai_busy_share:.1%}"),
            ("alarm until the AI has left", _followed(day.up)),
            ("revocation until it has stopped", _followed(day.pauses)),
        ],
    )


def _print_device(device: dict[str, Any], started: str, ai: str) -> None:
    console.print(
        f"{escape(str(device['name']))}, driver {device['driver']}, {device['sm_mhz']} MHz; "
        f"{started}; AI: {ai}"
    )


def _times(times: Any) -> tuple[float, ...]:
    return (times.p50_us, times.p99_us, times.p999_us, times.max_us)


def _followed(one: Followed) -> str:
    if one.p99_ms is None:
        return f"none of {one.of}"
    return f"p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms, max {one.max_ms:.1f} ms, of {one.n}"


def _line(one: dict[str, Any], channel: dict[str, Any], what: str) -> tuple[object, ...]:
    found = channel[what] or {}
    times = [found.get(key) for key in ("p50_us", "p99_us", "p999_us", "max_us")]
    ends = (channel[f"late_{what}"], channel["dropped"], channel["slots"])
    return (one["name"], channel["channel"], *times, *ends)


def _beside(one: dict[str, Any]) -> tuple[object, ...]:
    if one["error"]:
        return ("failed", None, None, None)
    ratios = [one["p999_ratio"].get(channel) for channel in ("pusch", "pdsch")]
    return (*ratios, one["tokens_per_s"], one["ai_share"])
