"""Which running work makes room for work of the tier priority, and when. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from marketplace.dispatch.queue import Tier


class Placed(Protocol):
    """Work that has a place on an engine."""

    @property
    def tier(self) -> Tier:
        """Its tier."""

    @property
    def is_held(self) -> bool:
        """It is not to be cut off: it was passed over too often, or has to be paid for."""

    @property
    def is_cut(self) -> bool:
        """It is being cut off already."""


class Running(Placed, Protocol):
    """The same, with what it costs to cut it off, and when its place is free without that."""

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """Whether it starts over, and the tokens that are worked on as a prompt."""

    @property
    def resume_s(self) -> float:
        """Seconds that being cut off sets it back; 0 where nothing was measured yet."""

    def frees_within(self, seconds: float) -> float:
        """Places that it leaves by itself in that time, in the mean."""


R = TypeVar("R", bound=Running)


def may_yield(one: Placed) -> bool:
    """Whether it makes room for priority work, as flex work does."""
    return one.tier == "flex" and not one.is_held and not one.is_cut


def patient_until_s(promised_s: float, *, others_wait: bool) -> float:
    """The promise that patience goes by: what `promised_s` is, or 0 while requests of the tier
    default wait too. The place that becomes free is theirs then, and who waits for it takes it
    from them, where work that is cut off has time."""
    return 0.0 if others_wait else promised_s


def patience_s(resume_s: float, first_token_s: float, promised_s: float) -> float:
    """How long a request of priority waits for a place, rather than have work cut off for it that
    would be set back by `resume_s`.

    `first_token_s`: from its arrival to its first token, if it began now. A second of its waiting
    weighs as much as `u / (1 - u)` seconds of the other's, `u` being the part of the promised
    time that is gone at its first token: next to nothing as long as nobody would notice, and
    without bounds where the promise is about to be broken. It has waited long enough where
    `wait u = resume (1 - u)`.
    """
    left_s = promised_s - first_token_s
    if left_s <= 0.0:
        return 0.0
    half_s = (first_token_s + resume_s) / 2.0
    return max(0.0, math.sqrt(half_s * half_s + resume_s * left_s) - half_s)


def chosen_to_yield(
    running: Iterable[R], first_tokens_s: Sequence[float], promised_s: float
) -> list[R]:
    """What is to be cut off, the cheapest to resume first, for jobs of priority that wait.

    `first_tokens_s`: of each of them, the longest waiting first, when its first token would come
    if it began now, from its arrival on. One that a place will be free for before its patience is
    over waits for it.
    """
    here = list(running)
    able = sorted(filter(may_yield, here), key=lambda one: one.cost_of_resuming)
    waiting = first_tokens_s[sum(one.is_cut for one in here) :]
    if not able or not waiting:
        return []
    going = [one for one in here if not one.is_cut]
    least_s = patience_s(able[0].resume_s, max(waiting), promised_s)
    if _freed(going, least_s) >= len(waiting):
        return []
    n_patient, chosen = 0, list[R]()
    for first_token_s in waiting:
        if len(chosen) == len(able):
            break
        victim = able[len(chosen)]
        enough_s = patience_s(victim.resume_s, first_token_s, promised_s)
        if _freed(going, enough_s) >= n_patient + 1:
            n_patient += 1
        else:
            chosen.append(victim)
            going.remove(victim)
    return chosen


def _freed(running: Sequence[Running], seconds: float) -> float:
    return math.fsum(one.frees_within(seconds) for one in running) if seconds > 0.0 else 0.0
