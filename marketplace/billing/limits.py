"""Budgets and quotas: what they say, when their periods begin, and how they refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from airan.core.errors import CapacityError, InvalidInputError

LimitScope = Literal["tenant", "project", "key"]
Period = Literal["day", "month", "total"]
SCOPES: tuple[LimitScope, ...] = ("tenant", "project", "key")
PERIODS: tuple[Period, ...] = ("day", "month", "total")
DEFAULT_ALERTS = (50, 80, 100)
WINDOWS_S = {"minute": 60, "day": 86_400}
MAX_LIMIT = 10**15
_DAY_S = 86_400


def period_start_s(period: str, time_s: float) -> float:
    """When the period around that time began, in UTC."""
    if period == "total":
        return 0.0
    if period == "day":
        return time_s - time_s % _DAY_S
    month = datetime.fromtimestamp(time_s, UTC).replace(day=1, hour=0, minute=0, second=0)
    return month.replace(microsecond=0).timestamp()


def period_end_s(period: str, time_s: float) -> float:
    """When the period around that time ends, in UTC; infinity: never."""
    if period == "total":
        return math.inf
    start_s = period_start_s(period, time_s)
    # 32 days after a month's beginning is always in the next month.
    return period_start_s(period, start_s + (_DAY_S if period == "day" else 32 * _DAY_S))


@dataclass(frozen=True)
class BudgetSpec:
    """A budget to be set."""

    scope: LimitScope
    scope_id: str
    """Id of the tenant, project or key."""
    period: Period
    limit_micro_usd: int
    hard: bool = True
    """Whether jobs are refused that could go over it; else it only raises alerts."""
    alerts_percent: tuple[int, ...] = DEFAULT_ALERTS

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InvalidInputError("scope", f"must be one of {', '.join(SCOPES)}")
        if self.period not in PERIODS:
            raise InvalidInputError("period", f"must be one of {', '.join(PERIODS)}")
        if not 0 <= self.limit_micro_usd <= MAX_LIMIT:
            raise InvalidInputError("limit_micro_usd", f"must be between 0 and {MAX_LIMIT}")
        if list(self.alerts_percent) != sorted(set(self.alerts_percent)) or not all(
            0 < percent <= 1000 for percent in self.alerts_percent
        ):
            raise InvalidInputError("alerts_percent", "must rise, each between 1 and 1000")


@dataclass(frozen=True)
class QuotaSpec:
    """Limits of a tenant, project or key; None: no limit."""

    scope: LimitScope
    scope_id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    concurrent_jobs: int | None = None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InvalidInputError("scope", f"must be one of {', '.join(SCOPES)}")
        for name in QUOTA_LIMITS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**31:
                raise InvalidInputError(name, "must be between 0 and 2147483647, or nothing")


QUOTA_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "requests_per_day",
    "tokens_per_day",
    "concurrent_jobs",
)


@dataclass(frozen=True)
class RateLimit:
    """How much of the tightest quotas is left: what `x-ratelimit-*` headers say. None: no quota."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0

    def tightened(self, kind: str, limit: int, remaining: int, reset_s: float) -> RateLimit:
        """With one more quota taken into account; `kind` is `requests` or `tokens`."""
        present = getattr(self, f"remaining_{kind}")
        if present is not None and present <= remaining:
            return self
        values = {f"limit_{kind}": limit, f"remaining_{kind}": max(remaining, 0)}
        return replace(self, **values, **{f"reset_{kind}_s": reset_s})  # type: ignore[arg-type]

    def headers(self) -> dict[str, str]:
        """OpenAI's headers; none where there is no quota."""
        found: dict[str, str] = {}
        for kind in ("requests", "tokens"):
            limit = getattr(self, f"limit_{kind}")
            if limit is not None:
                found[f"x-ratelimit-limit-{kind}"] = str(limit)
                found[f"x-ratelimit-remaining-{kind}"] = str(getattr(self, f"remaining_{kind}"))
                reset_s = getattr(self, f"reset_{kind}_s")
                found[f"x-ratelimit-reset-{kind}"] = duration_text(reset_s)
        return found


class LimitError(CapacityError):
    """A limit of the tenant's refuses the job."""

    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        remedy: str,
        retry_after_s: float | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s
        """When it may succeed; None: not by waiting."""
        self.rate_limit = rate_limit or RateLimit()

    def headers(self) -> dict[str, str]:
        """The headers of an answer 429."""
        found = self.rate_limit.headers()
        if self.retry_after_s is None:
            # The official client asks again by itself unless it is told not to.
            return found | {"x-should-retry": "false"}
        return found | {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class QuotaExceededError(LimitError):
    """More requests, tokens or jobs at once than the quota allows."""


class BudgetExceededError(LimitError):
    """The job could cost more than a hard budget, or a prepaid account, has left."""

    code = "insufficient_quota"


def duration_text(seconds: float) -> str:
    """A duration as OpenAI writes it: 6m0s, 59s, 20ms."""
    if seconds < 1:
        return f"{math.ceil(max(seconds, 0) * 1000)}ms"
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    text = f"{hours}h" if hours else ""
    return text + (f"{minutes}m" if hours or minutes else "") + f"{left}s"
