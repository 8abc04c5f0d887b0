"""Where a job can run: the free slots of the engines that have a lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from marketplace.dispatch.turns import Turn
from marketplace.jobs import Job
from marketplace.pool import PooledEngine


@dataclass(frozen=True)
class Place:
    """A slot of an engine, and how many others of it are taken."""

    engine: PooledEngine
    slot: int
    n_running: int

    @property
    def key(self) -> tuple[str, int]:
        """Engine and slot, as they are known after the engine has gone."""
        return self.engine.state.url, self.slot


def free_places(
    model: str, engines: Iterable[PooledEngine], turns: Collection[Turn], now_s: float
) -> list[Place]:
    """All free slots for jobs of that model at monotonic time `now_s`."""
    found = []
    for engine in engines:
        state = engine.state
        if state.phase != "ready" or state.model != model or not state.url:
            continue
        used = {turn.slot for turn in turns if turn.engine is engine}
        if len(used) >= state.max_concurrent or engine.avoid_until_s > now_s:
            continue
        slots = range(max(state.n_slots, 1))
        found += [Place(engine, slot, len(used)) for slot in slots if slot not in used]
    return found


def choose_place(job: Job, places: list[Place], kept: Collection[tuple[str, int] | None]) -> Place:
    """The slot that holds the job's cache, or else one that holds no waiting job's."""
    own = [place for place in places if place.key == job.place]
    unkept = [place for place in places if place.key not in kept]
    return (own or unkept or places)[0]
