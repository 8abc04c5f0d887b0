"""The figures of a snapshot that are kept over time, for charts and plots."""

from __future__ import annotations

from airan.site.snapshot import SiteSnapshot

COLUMNS = (
    "time_s",
    "site_time_s",
    "ran_demand",
    "ran_held",
    "ai_leased",
    "ai_busy",
    "p50_us",
    "p99_us",
    "max_us",
    "budget_us",
    "tokens_per_s",
    "running",
    "waiting",
)
Point = tuple[float | None, ...]
"""One value a column, None where it was not known."""


def point_of(snapshot: SiteSnapshot) -> Point:
    """The figures of `snapshot` in the order of `COLUMNS`."""
    control, market, slots = snapshot.control, snapshot.market, snapshot.slots
    shares = None if control is None else control.shares
    return (
        snapshot.time_s,
        snapshot.site_time_s,
        None if shares is None else shares.ran_demand,
        None if shares is None else shares.ran_held,
        None if shares is None else shares.ai_leased,
        None if shares is None else shares.ai_busy,
        None if slots is None else slots.p50_us,
        None if slots is None else slots.p99_us,
        None if slots is None else slots.max_us,
        None if slots is None else slots.budget_us,
        None if market is None else market.tokens_per_s,
        None if market is None else market.requests.running,
        None if market is None else market.requests.waiting,
    )
