"""What the operator wants: how the pool is divided, and within which bounds. Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airan.core.errors import InvalidInputError

POLICY_KINDS = ("static", "time_of_day", "demand")
UNITS = ("slice", "gpu")
DRIFT_REACTIONS = ("mend", "report")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_SHARES = (
    "ran_share",
    "headroom",
    "min_ran_share",
    "max_ran_share",
    "min_ai_share",
    "max_ai_share",
    "hysteresis_share",
)


@dataclass(frozen=True)
class CalendarEntry:
    """From `start` on these days the RAN's part is `ran_share`, until the next entry starts.

    Raises:
        InvalidInputError: no such weekday or time of day, or a share out of range.
    """

    days: tuple[str, ...]
    """Of `mon` to `sun`; empty: every day."""
    start: str
    """HH:MM in the policy's time zone."""
    ran_share: float

    def __post_init__(self) -> None:
        for day in self.days:
            if day not in WEEKDAYS:
                raise InvalidInputError(
                    "policy.calendar.days", f"no weekday {day!r}", remedy=f"use {WEEKDAYS}"
                )
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", self.start):
            raise InvalidInputError(
                "policy.calendar.start", f"{self.start!r} is no time of day", remedy="give HH:MM"
            )
        _check_share("policy.calendar.ran_share", self.ran_share)

    @property
    def minutes(self) -> tuple[int, ...]:
        """When it starts, in minutes of the week (Monday 00:00 is 0)."""
        hour, minute = map(int, self.start.split(":"))
        days = self.days or WEEKDAYS
        return tuple(WEEKDAYS.index(day) * _DAY_MINUTES + hour * 60 + minute for day in days)


@dataclass(frozen=True)
class Reservation:
    """SMs that only this tenant's engines may lease.

    Raises:
        InvalidInputError: no tenant, or no SMs.
    """

    tenant: str
    sm_count: int

    def __post_init__(self) -> None:
        if not self.tenant:
            raise InvalidInputError("policy.reservations.tenant", "must not be empty")
        if self.sm_count < 1:
            raise InvalidInputError(
                "policy.reservations.sm_count", f"must be at least 1, got {self.sm_count}"
            )


@dataclass(frozen=True)
class Policy:
    """What the operator wants.

    Raises:
        InvalidInputError: an unknown kind or time zone, a value out of range, or bounds that
            exclude each other; the message names the field.
    """

    kind: str = "demand"
    """`static`, `time_of_day` or `demand`."""
    ran_share: float = 0.6
    """`static`: the RAN's part; `time_of_day`: until the calendar's first entry applies."""
    headroom: float = 0.1
    """`demand`: share kept above the RAN's demand."""
    min_ran_share: float = 0.1
    """The RAN never gets less."""
    min_lease_s: float = 6.0
    """`demand`: the AI's part grows only if that is expected to last this long."""
    notice_ms: int = 400
    """How long a lease holder may take to pause before its partition is taken by force."""
    unit: str = "slice"
    """`slice`: each GPU is divided; `gpu`: whole GPUs belong to one side (`static` and
    `time_of_day`)."""
    max_ran_share: float = 1.0
    """The RAN gets no more, whatever it needs."""
    min_ai_share: float = 0.0
    """The AI gets no less, whatever the RAN needs."""
    max_ai_share: float = 1.0
    """The AI gets no more, even if the rest is idle."""
    hysteresis_share: float = 0.0
    """`demand`: leases are revoked for the AI's own sake only for a gain above this share."""
    time_zone: str = "UTC"
    """IANA name; for the calendar."""
    calendar: tuple[CalendarEntry, ...] = ()
    """`time_of_day`: the week."""
    reservations: tuple[Reservation, ...] = ()
    drift: str = "mend"
    """`mend` or `report`: what to do when the partitions are not as the plan left them. What the
    RAN has lost is mended in either case."""

    def __post_init__(self) -> None:
        _check_word("kind", self.kind, POLICY_KINDS)
        _check_word("unit", self.unit, UNITS)
        _check_word("drift", self.drift, DRIFT_REACTIONS)
        for name in _SHARES:
            _check_share(f"policy.{name}", getattr(self, name))
        if not 0.0 <= self.min_lease_s < math.inf:
            raise InvalidInputError(
                "policy.min_lease_s", f"must not be negative, got {self.min_lease_s}"
            )
        if not 0 <= self.notice_ms <= 60_000:
            raise InvalidInputError(
                "policy.notice_ms", f"must lie in [0, 60000], got {self.notice_ms}"
            )
        for side in ("ran", "ai"):
            _check_order(f"min_{side}_share", f"max_{side}_share", self)
        if self.min_ran_share + self.min_ai_share > 1.0 + 1e-9:
            raise InvalidInputError(
                "policy.min_ai_share",
                f"the RAN's {self.min_ran_share} and the AI's {self.min_ai_share} exceed the pool",
                remedy="lower one of the floors",
            )
        zone(self.time_zone)
        if self.kind == "time_of_day" and not self.calendar:
            raise InvalidInputError(
                "policy.calendar", "time_of_day needs at least one entry", remedy="add entries"
            )

    def ran_share_at(self, now_s: float) -> float:
        """The RAN's part at that moment (Unix seconds), without demand: `static`'s, or what the
        calendar says. Always within the bounds."""
        share = self.ran_share
        if self.kind == "time_of_day":
            share = _calendar_share(
                self.calendar, datetime.fromtimestamp(now_s, zone(self.time_zone))
            )
        return self.bounded(share)

    def bounded(self, ran_share: float) -> float:
        """The RAN's part within the floors and ceilings of both sides; its own floor is last."""
        ceiling = min(self.max_ran_share, 1.0 - self.min_ai_share)
        return max(self.min_ran_share, min(ceiling, ran_share))


def restored(body: dict[str, Any]) -> Policy:
    """The policy whose `dataclasses.asdict` went through JSON."""
    calendar = tuple(
        CalendarEntry(tuple(entry["days"]), entry["start"], entry["ran_share"])
        for entry in body.get("calendar", ())
    )
    reservations = tuple(Reservation(**one) for one in body.get("reservations", ()))
    return Policy(**body | {"calendar": calendar, "reservations": reservations})


@cache
def zone(name: str) -> ZoneInfo:
    """The time zone.

    Raises:
        InvalidInputError: there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInputError(
            "policy.time_zone", f"no time zone {name!r}", remedy="use an IANA name, Asia/Tokyo say"
        ) from error


def _calendar_share(calendar: Sequence[CalendarEntry], local: datetime) -> float:
    """What the entry says that started last, in local time, perhaps a week ago."""
    minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
    starts = itertools.chain.from_iterable(
        ((start, entry.ran_share) for start in entry.minutes) for entry in calendar
    )
    week = 7 * _DAY_MINUTES
    return min(starts, key=lambda start: (minute - start[0]) % week)[1]


def _check_word(name: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        listed = ", ".join(f"`{one}`" for one in words)
        raise InvalidInputError(
            f"policy.{name}", f"unknown {name} {word!r}", remedy=f"use {listed}"
        )


def _check_share(name: str, share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise InvalidInputError(name, f"must lie in [0, 1], got {share}")


def _check_order(low: str, high: str, policy: Policy) -> None:
    if getattr(policy, low) > getattr(policy, high):
        raise InvalidInputError(f"policy.{low}", f"is above {high}", remedy="lower it")
