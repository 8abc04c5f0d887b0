"""Which running requests make room for those of the tier priority: by the live rule."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.dispatch.queue import Tier
from marketplace.dispatch.yielding import chosen_to_yield, may_yield, patience_s

_TURNS = 16
"""Running requests that stand for all, from those just begun to those nearly done."""


@dataclass(frozen=True)
class AtWork:
    """Requests that have all of a site's places; tokens are means of each."""

    tier: Tier
    is_held: bool
    context_tokens: float
    generated_tokens: float
    places: int
    free_s: float
    """Between two of them that end."""
    prefill_rate: float
    """Prompt tokens a second of the engines."""


@dataclass(frozen=True)
class SimulatedTurn:
    """A request at work, and as many others as it stands for. As `yielding.Running`."""

    tier: Tier
    is_held: bool
    n_tokens: int
    """Of its prompt and of its answer so far."""
    resume_s: float
    least_left_s: float
    """Until the first of those it stands for ends by itself."""
    spread_s: float
    """From then on until the last does."""
    stands_for: float
    is_cut: bool = False

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        """All tokens are worked on as a prompt; none has a schema."""
        return False, self.n_tokens

    def frees_within(self, seconds: float) -> float:
        """Places: they end evenly."""
        part = (seconds - self.least_left_s) / self.spread_s
        return self.stands_for * min(1.0, max(0.0, part))


@dataclass(frozen=True)
class Room:
    """How the requests of priority that come in a step get their places."""

    n_cut: int
    """Requests that are cut off for them."""
    again_tokens: int
    """That each of those has to read again."""
    wait_s: float
    """Of one that comes, for a place."""


def running(at_work: AtWork) -> list[SimulatedTurn]:
    """All of them, evenly far on."""
    spread_s = at_work.free_s * at_work.places / _TURNS
    found = []
    for number in range(_TURNS):
        made = at_work.generated_tokens * (number + 0.5) / _TURNS
        n_tokens = round(at_work.context_tokens + made)
        resume_s, left_s = n_tokens / at_work.prefill_rate, spread_s * (_TURNS - number - 1)
        stands_for = at_work.places / _TURNS
        found.append(
            SimulatedTurn(
                at_work.tier, at_work.is_held, n_tokens, resume_s, left_s, spread_s, stands_for
            )
        )
    return found


def room_for(
    n_priority: int, at_work: AtWork, seconds: float, prefill_s: float, promised_s: float
) -> Room:
    """What the live rule does for requests that come evenly in that time.

    It is asked for one that comes alone. If that waits for a place that becomes free by itself,
    those wait too that come no faster than places do; of what comes faster a line grows, until
    the patience of those in it is over.
    """
    turns = running(at_work)
    chosen = chosen_to_yield(turns, [prefill_s], promised_s)
    if chosen:
        return Room(n_priority, chosen[0].n_tokens, 0.0)
    n_over = n_priority - int(seconds / at_work.free_s)
    able = [one for one in turns if may_yield(one)]
    if n_over <= 0 or not able:
        return Room(0, 0, at_work.free_s)
    cheapest = min(able, key=lambda one: one.cost_of_resuming)
    wait_s = patience_s(cheapest.resume_s, prefill_s, promised_s)
    return Room(n_over, cheapest.n_tokens, wait_s)
