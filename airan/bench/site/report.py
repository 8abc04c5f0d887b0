"""The rows of a site's bench."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from airan.bench.rows import Row, row
from airan.bench.site.account import SiteAccount
from airan.bench.site.run import Quiet, SiteReport
from airan.bench.site.steps import StepResult


def rows(report: SiteReport) -> list[Row]:
    """A row for each figure; times of slots are Layer 1's own records of them, on the monotonic
    clock."""
    load = report.options.load
    where = f"{report.hardware}; {load.n_streams} streams of {load.answer_tokens} tokens"
    out = [
        row("start_until_slots_in_time", report.slots_s, "s", where),
        row("start_until_serving", report.ready_s, "s", where),
    ]
    if report.quiet is not None:
        out += _quiet(report.quiet, where)
    for step in report.steps:
        out += _step(step, where)
    if report.account is not None:
        out += _account(report.account, where)
    return out


def _quiet(quiet: Quiet, where: str) -> Iterator[Row]:
    for one in quiet.channels:
        name = f"quiet_{one.channel}"
        yield row(f"{name}_p50", one.p50_us, "us", where)
        yield row(f"{name}_p999", one.p999_us, "us", where)
        yield row(f"{name}_max", one.max_us, "us", where)
        yield row(f"{name}_late", float(one.late), f"of {one.slots}", where)
        yield row(f"{name}_dropped", float(one.dropped), f"of {one.slots}", where)
    for gear, share in quiet.gears.items():
        yield row(f"quiet_gear_{gear}", share, "of slots", where)
    yield row("quiet_tokens", quiet.tokens_per_s, "tokens/s", where)


def _step(step: StepResult, where: str) -> Iterator[Row]:
    name = step.name
    slots = step.slots
    yield row(f"{name}_all_back", float(step.is_back), "", where)
    yield row(f"{name}_first_slot_in_time", slots.first_in_time_s, "s", where)
    yield row(f"{name}_slots_steady", slots.steady_s, "s", where)
    yield row(f"{name}_longest_without_slots", slots.longest_s, "s", where)
    for what in ("late", "dropped", "missing"):
        yield row(f"{name}_slots_{what}", float(getattr(slots, what)), "", where)
    yield row(f"{name}_no_tokens_for", step.engine_silent_s, "s", where)
    yield row(f"{name}_tokens_again", step.engine_back_s, "s", where)
    for what in ("open", "broken"):
        yield row(f"{name}_streams_{what}", float(getattr(step, f"streams_{what}")), "", where)
    yield row(f"{name}_tokens_lost", float(step.tokens_lost), "", where)
    yield row(f"{name}_requests_refused", float(step.refused), "", where)
    yield row(f"{name}_events_shown", float(len(step.events)), "", where)
    for what in ("release_s", "away_s"):
        times_s = step.detail.get(what)
        if times_s:
            yield row(f"{name}_{what.removesuffix('_s')}_median", median(times_s), "s", where)


def _account(account: SiteAccount, where: str) -> Iterator[Row]:
    for what in (
        *("accepted", "completed", "billed_once", "refused"),
        *("streams_broken", "tokens_lost"),
    ):
        yield row(f"jobs_{what}", float(getattr(account, what)), "", where)
    yield row("problems", float(len(account.problems)), "", where)
