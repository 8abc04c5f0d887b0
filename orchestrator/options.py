"""The ways to divide one GPU between the RAN and the AI. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import NamedTuple

from orchestrator.geometry import Geometry
from orchestrator.mig import COMPUTE_SLICES, Layout, Placement


class Option(NamedTuple):
    """One way to divide one GPU, with what about it does not depend on the present."""

    layout: Layout
    roles: tuple[str, ...]
    ran: tuple[Placement, ...]
    ai: frozenset[Placement]
    ai_sms: tuple[int, ...]
    """SMs of the AI's partitions, largest first, padded with zeros to compare."""
    ran_sms: int
    ran_slices: int
    """Compute slices, as the geometry counts them."""
    is_undivided: bool
    """The RAN has the whole GPU as one instance, which cannot shrink."""


@cache
def maximal_options(geometry: Geometry) -> tuple[Option, ...]:
    """Every assignment of roles to every maximal layout: a larger layout is never worse."""
    layouts = geometry.maximal_layouts()
    return tuple(option for layout in layouts for option in options_of(geometry, layout))


def options_of(geometry: Geometry, layout: Layout) -> Iterable[Option]:
    """Every assignment of roles to one layout."""
    profiles = [geometry.profile(placement.profile) for placement in layout]
    for roles in product(("ran", "ai"), repeat=len(layout)):
        parts = list(zip(layout, profiles, roles, strict=True))
        yield Option(
            layout=layout,
            roles=roles,
            ran=tuple(placement for placement, _, role in parts if role == "ran"),
            ai=frozenset(placement for placement, _, role in parts if role == "ai"),
            ai_sms=ranked(profile.sm_count for _, profile, role in parts if role == "ai"),
            ran_sms=sum(profile.sm_count for _, profile, role in parts if role == "ran"),
            ran_slices=sum(profile.compute_slices for _, profile, role in parts if role == "ran"),
            is_undivided=any(profile.key == "7g" and role == "ran" for _, profile, role in parts),
        )


def ranked(sms: Iterable[int]) -> tuple[int, ...]:
    """SMs largest first, padded with zeros so that tuples of any length compare."""
    ranked = sorted(sms, reverse=True)
    return tuple(ranked + [0] * (COMPUTE_SLICES - len(ranked)))


def within(sms: Iterable[int], ceiling: int) -> tuple[int, ...]:
    """Which of the AI's partitions fit under a ceiling together, largest first; ranked."""
    kept, total = [], 0
    for one in sorted(sms, reverse=True):
        if one and total + one <= ceiling:
            kept.append(one)
            total += one
    return ranked(kept)
