"""Ways in which two processes share a GPU, and the runs that compare them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airan.core.errors import InvalidInputError

DEFAULT_WAYS = ("time-sliced", "mps", "mps-30-70", "mps-50-50", "green-64", "green-96")
_REMEDY = (
    "use time-sliced, mps, mps-30-70 (percent of SMs: slots, AI), green-64 (slots' SMs), or one of "
    "the last three with mps-first or green-first (the AI behind the slots), e.g. mps-first-50-90; "
    "green-64-32 gives the AI so many of the other SMs"
)


@dataclass(frozen=True)
class Way:
    """One way to share.

    Attributes:
        name: as it was asked for.
        is_mps: both sides are clients of one MPS daemon.
        slots_percent, ai_percent: of the SMs that MPS gives each; None: no limit.
        slots_sms: the slots run in a green context of so many SMs, and the AI in one of the rest.
            Two processes only run at once under MPS, so that this is one of its clients too.
        ai_sms: so many of that rest; None: all of it.
        slots_first: the AI is a client of MPS's lower priority.
    """

    name: str
    is_mps: bool = False
    slots_percent: int | None = None
    ai_percent: int | None = None
    slots_sms: int | None = None
    ai_sms: int | None = None
    slots_first: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether the slots have less than the whole GPU."""
        return self.slots_percent is not None or self.slots_sms is not None


@dataclass(frozen=True)
class Run:
    """What runs at once.

    Attributes:
        way: how the GPU is shared.
        has_slots, has_ai: the sides that run; one side alone keeps the limits of its way.
    """

    way: Way
    has_slots: bool = True
    has_ai: bool = True

    @property
    def name(self) -> str:
        """E.g. `mps-30-70` or `mps-30-70, slots alone`."""
        if self.has_slots and self.has_ai:
            return self.way.name
        return f"{self.way.name}, {'slots' if self.has_slots else 'AI'} alone"


WHOLE = Way("whole GPU")


def way(name: str) -> Way:
    """The way with that name.

    Raises:
        InvalidInputError: there is none, or its shares do not fit.
    """
    if name == "time-sliced":
        return Way(name)
    if found := re.fullmatch(r"mps(-first)?", name):
        return Way(name, is_mps=True, slots_first=found[1] is not None)
    if limits := re.fullmatch(r"mps(-first)?-(\d{1,3})-(\d{1,3})", name):
        slots, ai = int(limits[2]), int(limits[3])
        if not (1 <= slots <= 100 and 1 <= ai <= 100):
            raise InvalidInputError("way", f"{name}: percentages must lie in [1, 100]")
        first = limits[1] is not None
        return Way(name, is_mps=True, slots_percent=slots, ai_percent=ai, slots_first=first)
    if green := re.fullmatch(r"green(-first)?-(\d{1,3})(?:-(\d{1,3}))?", name):
        slots_sms, ai_sms = int(green[2]), int(green[3]) if green[3] else None
        if slots_sms < 1 or ai_sms == 0:
            raise InvalidInputError("way", f"{name}: must be at least one SM")
        first = green[1] is not None
        return Way(name, is_mps=True, slots_sms=slots_sms, ai_sms=ai_sms, slots_first=first)
    raise InvalidInputError("way", f"unknown way {name!r}", remedy=_REMEDY)


def runs(ways: Sequence[Way]) -> Iterator[Run]:
    """Each side alone on the whole GPU, then every way; before one that limits the slots, they run
    alone within the same limits."""
    yield Run(WHOLE, has_ai=False)
    yield Run(WHOLE, has_slots=False)
    for one in ways:
        if one.is_limited:
            yield Run(one, has_ai=False)
        yield Run(one)
