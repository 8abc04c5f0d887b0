"""Everything that `airan bench sharing` measures in one go, and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airan.bench.rows import Row, row
from airan.bench.sharing.day import DayOptions, DayReport, measure_day
from airan.bench.sharing.run import SharingOptions, SharingReport, measure
from airan.core.errors import AiranError
from airan.core.gpu_config import SLOT_LIMITS

AVERAGE_CELLS = 4
PEAK_WAYS = (
    *("time-sliced", "mps", "mps-30-70"),
    *("green-64-48", "green-80-48", "green-96-32", "green-96-24", "green-112-16"),
)
AVERAGE_WAYS = ("mps", "green-16-116", "green-16-88", "green-8-124")


@dataclass(frozen=True)
class ProofOptions:
    """What is measured, one part after the other.

    Attributes:
        ways: the comparisons of ways to share the GPU.
        day: the day, and the revocations after it; None: neither.
    """

    ways: tuple[SharingOptions, ...]
    day: DayOptions | None = None

    @classmethod
    def whole(
        cls,
        n_slots: int,
        speed: float,
        n_pauses: int,
        slot_limits: tuple[float, float, float] = SLOT_LIMITS,
    ) -> ProofOptions:
        """20 peak cells and 4 average ones beside vLLM in every way, and a day of 20 cells."""
        peak = SharingOptions(PEAK_WAYS, n_slots, engine="vllm", step_tokens=512)
        average = SharingOptions(
            AVERAGE_WAYS, n_slots, AVERAGE_CELLS, is_average=True, engine="vllm", step_tokens=512
        )
        day = DayOptions(
            speed=speed,
            n_pauses=n_pauses,
            engine="vllm",
            step_tokens=512,
            slot_limits=slot_limits,
        )
        return cls((peak, average), day)


@dataclass
class Proof:
    """What came of it.

    Attributes:
        runs: of the ways.
        day: None: it was not wanted, or has not come yet.
        day_error: why there is none.
    """

    runs: list[SharingReport] = field(default_factory=list)
    day: DayReport | None = None
    day_error: str | None = None

    @property
    def errors(self) -> list[tuple[str, str]]:
        """What failed, and why."""
        ways = (one for report in self.runs for one in report.results)
        out = [(one.name, one.error) for one in ways if one.error]
        return out if self.day_error is None else [*out, ("the day", self.day_error)]


def measure_all(
    options: ProofOptions,
    on_part: Callable[[Proof, dict[str, Any]], None] = lambda _proof, _series: None,
    on_progress: Callable[[str], None] = lambda _name: None,
) -> Proof:
    """Measures every part.

    Args:
        options: what is measured.
        on_part: called after each run with all so far, and what was seen in it (may be empty).
        on_progress: called with the name of each run before it.

    Raises:
        UnavailableError: no GPU; or the day, and nothing else is wanted, cannot be played.
    """
    proof = Proof()
    for ways in options.ways:
        at = len(proof.runs)

        def keep(report: SharingReport, series: dict[str, Any] | None, at: int = at) -> None:
            proof.runs[at:] = [report]
            on_part(proof, series or {})

        measure(ways, keep, on_progress)
    if options.day is not None:

        def keep_day(report: DayReport, series: dict[str, Any]) -> None:
            proof.day = report
            on_part(proof, {"name": "day", **series} if series else {})

        try:
            measure_day(options.day, keep_day, on_progress)
        except AiranError as error:
            if not proof.runs:
                raise
            proof.day_error = str(error)
            on_part(proof, {})
    return proof


def rows(proof: Proof) -> list[Row]:
    """A row for each figure, with the same side alone as its peer."""
    out: list[Row] = []
    for report in proof.runs:
        options, device = report.options, str(report.device["name"])
        load = f"{options.n_cells} {'average' if options.is_average else 'peak'} cells"
        where = f"{device}, {load}, beside {report.ai}"
        for one in report.results:
            name = f"{one.name} ({load})".replace(" ", "_")
            for channel in one.channels:
                lost = (channel.late_kernels, channel.slots)
                if channel.kernels is not None:
                    us = channel.kernels.p999_us
                    ratio = one.p999_ratio.get(channel.channel)
                    alone = None if ratio is None else ("the same slots alone", us / ratio)
                    out.append(row(f"{name}_{channel.channel}_p999", us, "us", where, alone))
                out.append(_share(f"{name}_{channel.channel}_late", lost, where))
            if one.tokens_per_s is not None:
                share = one.ai_share
                whole = None if not share else ("the AI alone", one.tokens_per_s / share)
                out.append(row(f"{name}_tokens", one.tokens_per_s, "tokens/s", where, whole))
    return out + ([] if proof.day is None else _day_rows(proof.day))


def _day_rows(day: DayReport) -> list[Row]:
    options = day.options
    where = (
        f"{day.device['name']}, {options.n_cells} cells, a day at {options.speed:g} times its"
        f" speed, beside {day.ai}"
    )
    out = []
    for one in day.slots:
        lost = (one.late + one.dropped, one.slots)
        out.append(_share(f"day_{one.channel}_late", lost, where))
        out.append(row(f"day_{one.channel}_p999", one.kernels.p999_us, "us", where))
    alone = ("the AI alone", day.alone_tokens_per_s)
    out.append(row("day_tokens", day.tokens_per_s, "tokens/s", where, alone))
    for name, share in (
        ("held", day.held_share),
        ("ran_busy", day.ran_busy_share),
        ("ai_busy", day.ai_busy_share),
    ):
        out.append(row(f"day_{name}_share", share, "of SM time", where))
    out.append(row("alarm_to_ran_p99", day.up.p99_ms, "ms", where))
    out.append(row("revocation_p99", day.pauses.p99_ms, "ms", where))
    out.append(row("revocations", float(day.pauses.of), "", where))
    for name, ended, wrong in (
        ("day", day.requests_ended, day.requests_wrong),
        ("revocation", day.pause_requests_ended, day.pause_requests_wrong),
    ):
        out.append(row(f"{name}_requests_ended", float(ended), "", where))
        out.append(row(f"{name}_requests_with_lost_tokens", float(wrong), "", where))
    return out


def _share(name: str, lost: tuple[int, int], where: str) -> Row:
    n_lost, n = lost
    return row(name, n_lost / n if n else None, f"of {n}", where)
