"""The ways to share a GPU between the slots and an AI load, and runs that compare them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airan.core.errors import InvalidInputError
from orchestrator.sm_board import Gear

DEFAULT_WAYS = ("time-sliced", "mps", "mps-30-70", "green-64-68", "green-96-36", "green-96-20")
_REMEDY = (
    "use time-sliced, mps, mps-30-70 (percent of SMs: slots, AI) or green-96-36 (SMs of each), or "
    "with the AI behind the slots mps-first or mps-first-50-90"
)


@dataclass(frozen=True)
class Setup:
    """How the processes of both sides are started. Runs of one setup share them.

    Attributes:
        is_mps: both are clients of one MPS daemon; otherwise the GPU takes turns.
        slots_percent, ai_percent: of the SMs that MPS gives each; None: no limit.
        slots_first: the AI is a client of MPS's lower priority.
    """

    is_mps: bool = False
    slots_percent: int | None = None
    ai_percent: int | None = None
    slots_first: bool = False


@dataclass(frozen=True)
class Way:
    """One way to share.

    Attributes:
        name: what the user calls it.
        setup: of the processes.
        gear: both sides run in green contexts of so many SMs; None: without. Two processes only run
            at once under MPS, so that these are its clients too.
    """

    name: str
    setup: Setup = Setup()
    gear: Gear | None = None

    @property
    def slots_limit(self) -> str:
        """What the slots have of the GPU; empty: all of it."""
        if self.gear is not None:
            return f"{self.gear.ran_sms} SMs"
        return "" if self.setup.slots_percent is None else f"{self.setup.slots_percent}%"


@dataclass(frozen=True)
class Run:
    """A way, and which sides run.

    Attributes:
        way: how the GPU is shared.
        has_slots, has_ai: the sides.
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


WHOLE = "whole GPU"
UNLIMITED = Setup(is_mps=True)
"""Clients of MPS that have all of the GPU: one that is alone runs as if there were no MPS."""


def way(name: str) -> Way:
    """The way with that name.

    Raises:
        InvalidInputError: there is none, or its shares do not fit.
    """
    if name == "time-sliced":
        return Way(name)
    if found := re.fullmatch(r"mps(-first)?", name):
        return Way(name, Setup(is_mps=True, slots_first=found[1] is not None))
    if limits := re.fullmatch(r"mps(-first)?-(\d{1,3})-(\d{1,3})", name):
        slots, ai = int(limits[2]), int(limits[3])
        if not (1 <= slots <= 100 and 1 <= ai <= 100):
            raise InvalidInputError("way", f"{name}: percentages must lie in [1, 100]")
        return Way(name, Setup(True, slots, ai, limits[1] is not None))
    if green := re.fullmatch(r"green-(\d{1,3})-(\d{1,3})", name):
        gear = Gear(int(green[1]), int(green[2]))
        if gear.ran_sms < 1 or gear.ai_sms < 1:
            raise InvalidInputError("way", f"{name}: must be at least one SM each")
        if gear.ran_sms % 8:
            raise InvalidInputError("way", f"{name}: the slots' SMs come in eights")
        return Way(name, Setup(is_mps=True), gear)
    raise InvalidInputError("way", f"unknown way {name!r}", remedy=_REMEDY)


def by_setup(ways: Sequence[Way]) -> dict[Setup, list[Way]]:
    """The ways in an order that starts processes as rarely as possible; first comes the setup that
    limits nothing, with the runs of each side alone on the whole GPU, and be it without ways."""
    out: dict[Setup, list[Way]] = {UNLIMITED: []}
    for one in sorted(ways, key=lambda one: one.gear is not None):
        out.setdefault(one.setup, []).append(one)
    return out


def runs(setup: Setup, ways: Sequence[Way]) -> Iterator[Run]:
    """The runs of ways that share a setup: every way, after each side alone within its limits."""
    if setup == UNLIMITED:
        whole = Way(WHOLE, setup)
        yield Run(whole, has_ai=False)
        yield Run(whole, has_slots=False)
    alone: set[int] = set()
    for one in ways:
        if one.gear is not None:
            if one.gear.ran_sms not in alone:
                alone.add(one.gear.ran_sms)
                yield Run(one, has_ai=False)
            yield Run(one, has_slots=False)
        elif one.slots_limit:
            yield Run(one, has_ai=False)
            yield Run(one, has_slots=False)
        yield Run(one)
