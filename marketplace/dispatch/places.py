"""Where a job can run, and where it should: the longest known prefix against the load."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from marketplace.dispatch.admission import Work
from marketplace.dispatch.common import CommonEngines, places_of
from marketplace.dispatch.prefixes import Blocks, PrefixTable, SlotKey
from marketplace.dispatch.queue import Tier
from marketplace.dispatch.speeds import Speeds
from marketplace.pool import PooledEngine

_ALIKE = 0.1
"""Part by which a place may be worse than the best and still count as good."""


@dataclass(frozen=True)
class Room:
    """An engine with free slots."""

    engine: PooledEngine
    used: set[int]
    """Slots with a request at work."""
    n_more: int = 0
    """Requests at work there on none of these slots, or on one with another."""
    mine: tuple[int, int] = (0, 1)
    """Our number among the gateways, and how many there are."""

    @property
    def n_running(self) -> int:
        """Requests at work."""
        return len(self.used) + self.n_more

    @property
    def n_slots(self) -> int:
        """Free ones and used ones."""
        return max(self.engine.state.n_slots, 1)


@dataclass(frozen=True)
class Place:
    """A free slot and what it would be to run a job there."""

    engine: PooledEngine
    slot: int
    n_held: int
    """Leading tokens of the job that the slot holds."""
    is_home: bool
    """Whether that is a good part of them, or of what the slot holds."""
    n_running: int

    @property
    def key(self) -> SlotKey:
        """Engine and slot, as they are known after the engine has gone."""
        return self.engine.state.url, self.slot


def rooms_for(
    model: str,
    engines: Iterable[PooledEngine],
    common: CommonEngines,
    now_s: float,
    coming: Tier | None = None,
) -> list[Room]:
    """The engines that can take a job of that model at monotonic time `now_s`.

    `coming`: its tier, if it is not in line yet.
    """
    found = []
    for engine in engines:
        state = engine.state
        if state.phase != "ready" or state.model != model or not state.url:
            continue
        if common.left(engine, coming) <= 0:
            continue
        used = common.used(engine)
        room = Room(engine, used, common.n_running(engine) - len(used), common.mine)
        if len(used) < room.n_slots and engine.avoid_until_s <= now_s:
            found.append(room)
    return found


def with_adapter(adapter: str, rooms: list[Room]) -> list[Room]:
    """Those of the engines that have loaded the adapter; empty: none is needed."""
    return [room for room in rooms if not adapter or adapter in room.engine.state.adapters]


def free_places(model: str, engines: Iterable[PooledEngine], common: CommonEngines) -> int:
    """Places on our own engines of that model that nothing runs on, and that no other gateway has
    work waiting for."""
    n_free = sum(
        max(0, places_of(one) - common.n_running(one))
        for one in engines
        if one.state.phase == "ready" and one.state.model == model and one.external is None
    )
    return n_free - common.n_waiting_elsewhere(model)


def free_share(engines: Iterable[PooledEngine], common: CommonEngines, n_waiting: int) -> float:
    """The part of our own engines' places that nothing runs on or waits for, 0 to 1.

    `n_waiting`: our jobs; the other gateways' count too.
    """
    ready = [one for one in engines if one.state.phase == "ready" and one.external is None]
    n_places = sum(one.state.max_concurrent for one in ready)
    taken = n_waiting + sum(turn.engine.external is None for turn in common.turns)
    taken += sum(sum(common.elsewhere(one)) for one in ready)
    taken += sum(map(common.n_waiting_elsewhere, common.models_elsewhere()))
    return max(0.0, 1.0 - taken / n_places) if n_places else 0.0


def choose_place(
    work: Work,
    blocks: Blocks,
    rooms: list[Room],
    prefixes: PrefixTable,
    speeds: Speeds,
    kept: Collection[SlotKey],
) -> Place:
    """The place where a job with these prompt blocks is done first.

    Within an engine, that is the slot which holds the most of it, if that is a good part; else one
    that holds nothing of a waiting job (`kept`); else the longest unused. Between engines, what is
    held is weighed against the load in measured seconds, or, before the first measurement, in
    shares; of places about as good, again the one that holds the most, then the longest unused.
    """
    places = [_best_slot(room, blocks, prefixes, kept) for room in rooms]
    if len(places) == 1:
        return places[0]
    costs = [_seconds(work, place, speeds) for place in places]
    known = [cost for cost in costs if cost is not None]
    margin = _ALIKE * min(known, default=0.0)
    if len(known) < len(costs):
        known, margin = [_share(work, place) for place in places], _ALIKE
    limit = min(known) + margin
    good = [place for place, cost in zip(places, known, strict=True) if cost <= limit]

    def merit(place: Place) -> tuple[int, int, int]:
        url = place.engine.state.url
        held = place.n_held if place.is_home else 0
        return -held, prefixes.last_used(place.key), prefixes.engine_last_used(url)

    return min(good, key=merit)


def _best_slot(
    room: Room, blocks: Blocks, prefixes: PrefixTable, kept: Collection[SlotKey]
) -> Place:
    url = room.engine.state.url

    def merit(slot: int) -> tuple[int, bool, int]:
        key = (url, slot)
        return prefixes.match(key, blocks), key not in kept, -prefixes.last_used(key)

    homes = prefixes.homes(url, blocks) - room.used
    if homes:
        slot = max(sorted(homes), key=merit)
    else:
        free = _free_slots(room, prefixes)
        slot = next(free)
        if (url, slot) in kept:
            slot = next((one for one in free if (url, one) not in kept), slot)
    n_held = prefixes.match_tokens((url, slot), blocks)
    return Place(room.engine, slot, n_held, bool(homes), room.n_running)


def _free_slots(room: Room, prefixes: PrefixTable) -> Iterator[int]:
    """The longest unused first; of several gateways, each begins with others."""
    slots = prefixes.longest_unused(room.engine.state.url, room.n_slots)
    free = (one for one in slots if one not in room.used)
    rank, n = room.mine
    return free if n == 1 else iter(sorted(free, key=lambda one: one % n != rank))


def _seconds(work: Work, place: Place, speeds: Speeds) -> float | None:
    """Until the job is done there, by what was measured."""
    speed = speeds.of(place.engine.state)
    prefill_s = None if speed is None else speed.prefill_s(max(1, work.n_prompt - place.n_held))
    if speed is None or prefill_s is None:
        return None
    return prefill_s + work.n_answer * speed.token_s(place.n_running + 1)


def _share(work: Work, place: Place) -> float:
    """The part of the engine that is taken, less the part of the prompt that it holds."""
    load = place.n_running / max(1, place.engine.state.max_concurrent)
    return load - place.n_held / max(1, work.n_prompt)
