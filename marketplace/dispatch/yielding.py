"""Which running work makes room for work of the tier priority. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from marketplace.dispatch.queue import Tier


class Running(Protocol):
    """Work on an engine, as far as it matters here."""

    @property
    def tier(self) -> Tier:
        """Its tier."""

    @property
    def is_held(self) -> bool:
        """It is not to be cut off: it was passed over too often, or has to be paid for."""

    @property
    def is_cut(self) -> bool:
        """It is being cut off already."""

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """Whether it starts over, and the tokens that are worked on as a prompt."""


R = TypeVar("R", bound=Running)


def may_yield(one: Running) -> bool:
    """Whether it makes room for priority work, as flex work does."""
    return one.tier == "flex" and not one.is_held and not one.is_cut


def chosen_to_yield(running: Iterable[R], n_waiting: int) -> list[R]:
    """What is to be cut off for `n_waiting` jobs of priority, the cheapest to resume first."""
    here = list(running)
    n_wanted = n_waiting - sum(one.is_cut for one in here)
    return sorted(filter(may_yield, here), key=lambda one: one.cost_of_resuming)[: max(0, n_wanted)]
