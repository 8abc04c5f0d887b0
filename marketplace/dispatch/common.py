"""The engines as several gateways use them: what the others have there, and what is left to us."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from airan.core.clock import Clock
from marketplace.dispatch.lines import WaitingLines
from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.shares import divide, givers, parts
from marketplace.dispatch.turns import Turn, Turns
from marketplace.pool import PooledEngine
from marketplace.siblings.sibling import NONE, EngineUse, Report, Sibling, TierCounts

TURN_S = 2.0
"""The place that an engine has too many to be divided evenly goes to another gateway so often."""
_OVERDUE_S = 30.0
"""Work of a gateway that has had no place at all for so long goes first, whatever its tier."""
_NO_TOKEN_S = 1.0, 3.0
"""Work on a slot that another gateway took too goes elsewhere if it has no token by then: that of
the later seat, and that of the other, should it be the one that waits."""


class CommonEngines:
    """Knows the other gateways' last reports. With no others, all places are ours.

    `engines` and `embeddings`, which gives the requests for a model's embeddings that wait, are
    set when those are there.
    """

    def __init__(self, turns: Turns, lines: WaitingLines, clock: Clock) -> None:
        self.turns = turns
        self.engines: Sequence[PooledEngine] = ()
        self.embeddings: Callable[[], dict[str, TierCounts]] = dict
        self._lines = lines
        self._clock = clock
        self._siblings: tuple[Sibling, ...] = ()
        self._rank = 0
        self._wanted_since_s: dict[tuple[str, str], float] = {}
        """Monotonic times since which a sibling, by its id, has priority work for a model wait."""
        self._without_since_s: dict[str, float] = {}
        """The same since which we, with work waiting for a model, have had no place for it."""

    def meet(self, siblings: Sequence[Sibling], number: int) -> None:
        """Takes over what the other gateways report; `number` is our seat."""
        self._siblings = tuple(sorted(siblings, key=lambda one: one.number))
        self._rank = sum(one.number < number for one in self._siblings)
        for engine in self.engines:
            engine.share(is_alone=not siblings)
        now_s, before = self._clock.monotonic_s(), self._wanted_since_s
        self._wanted_since_s = {
            key: before.get(key, now_s)
            for one in self._siblings
            for model, waiting in one.report.waiting.items()
            if waiting[0] and (key := (one.id, model))
        }
        self._look(now_s)

    def report(self) -> Report:
        """What the others are to know of us. It names all engines that we could use: of others,
        our waiting work needs nothing."""
        self._look(self._clock.monotonic_s())
        waiting = {model: self._waiting(model) for model in self._own_models()}
        uses = {
            engine.state.url: EngineUse(self._own(engine), tuple(sorted(self._slots(engine))))
            for engine in self.engines
            if engine.external is None and engine.state.url
            if engine.state.phase == "ready" or self.turns.count(engine)
        }
        return Report({model: counts for model, counts in waiting.items() if any(counts)}, uses)

    @property
    def is_shared(self) -> bool:
        """There are other gateways."""
        return bool(self._siblings)

    @property
    def mine(self) -> tuple[int, int]:
        """Our number among the gateways, from 0, and how many there are."""
        return self._rank, len(self._siblings) + 1

    def share(self, engine: PooledEngine, n_places: int, coming: Tier | None = None) -> int:
        """Our part of an engine with so many places; `coming`: one more of that tier is to run."""
        if not self._siblings or engine.external is not None:
            return n_places
        return self._shares(engine, n_places, coming)[self._rank]

    def left(self, engine: PooledEngine, coming: Tier | None = None) -> int:
        """Places of the engine that nothing runs on, and that are ours."""
        n_places, n_own = places_of(engine), self.turns.count(engine)
        n_free = n_places - self.n_running(engine)
        return min(n_free, self.share(engine, n_places, coming) - n_own) if n_free > 0 else 0

    def kept(self, engine: PooledEngine) -> int:
        """What may go on of ours, where the engine takes fewer than run there."""
        n_places = engine.state.max_concurrent
        if not self._siblings or engine.external is not None:
            return n_places
        return self._divided(engine, n_places, self._all_running(engine))[self._rank]

    def elsewhere(self, engine: PooledEngine) -> TierCounts:
        """What the others run there."""
        return _sum(use.running for use in self._uses(engine))

    def n_running(self, engine: PooledEngine) -> int:
        """All that runs there, of ours and of the others'."""
        return self.turns.count(engine) + sum(self.elsewhere(engine))

    def used(self, engine: PooledEngine) -> set[int]:
        """Slots with a request at work. vLLM's are numbers of ours only."""
        used = self._slots(engine)
        if engine.state.driver == "llamacpp":
            used.update(slot for use in self._uses(engine) for slot in use.slots)
        return used

    def overwritten(self) -> Iterator[tuple[PooledEngine, int]]:
        """Slots that hold what the others have there, and nothing of ours any more."""
        for engine in self.engines:
            yield from ((engine, slot) for slot in self.used(engine) - self._slots(engine))

    def collided(self) -> Iterator[Turn]:
        """Turns of ours that stand behind another gateway's on their slot, while others are free:
        both took it before they heard of each other, and llama.cpp works on one after the other."""
        now_s = self._clock.monotonic_s()
        for engine in self.engines:
            used, uses = self.used(engine), self._uses(engine)
            if len(used) >= places_of(engine) or engine.state.driver != "llamacpp":
                continue
            for turn in self.turns.on(engine):
                ranks = [rank for rank, use in enumerate(uses) if turn.slot in use.slots]
                if ranks and turn.began_s and turn.last_token_s is None and not turn.is_cut:
                    # A later seat's index among the others is not less than our rank.
                    later = max(ranks) < self._rank
                    if now_s - turn.began_s > _NO_TOKEN_S[0 if later else 1]:
                        yield turn

    def n_waiting_elsewhere(self, model: str) -> int:
        """The others' jobs that wait for engines of it that we use too; those of our line for
        embeddings as well, if there are others: all count alike."""
        if not self._siblings:
            return 0
        ready, embeddings = self._ready(model), self.embeddings().get(model, NONE)
        theirs = (
            one.report.waiting.get(model, NONE)
            for one in self._siblings
            if any(engine.state.url in one.report.engines for engine in ready)
        )
        return sum(map(sum, theirs)) + sum(embeddings)

    def models_elsewhere(self) -> set[str]:
        """Models that the others have work waiting for, or we for embeddings of them."""
        found = {model for one in self._siblings for model in one.report.waiting}
        return found | set(self.embeddings()) if self._siblings else found

    def load(self, model: str) -> int:
        """The others' jobs of that model, running and waiting."""
        running = (self.elsewhere(one) for one in self.engines if one.state.model == model)
        return sum(map(sum, running)) + self.n_waiting_elsewhere(model)

    def default_waits(self, model: str) -> bool:
        """Whether a sibling has work of the tier default waiting."""
        return any(one.report.waiting.get(model, NONE)[1] for one in self._siblings)

    def wanted(self, model: str) -> list[float]:
        """For each place that flex work of ours is to give to the others' priority work: how long
        that has waited, in seconds, the longest first.

        A gateway that has flex work of its own there cuts that off first. Of the others, those
        do that have more under way than their share.
        """
        if not self._wanted_since_s:
            return []
        engines = [one for one in self._ready(model) if one.external is None]
        running = [_sum(found) for found in zip(*map(self._all_running, engines), strict=True)]
        waiting = [
            counts[0] if any(self._sees(rank, one) for one in engines) else 0
            for rank, counts in enumerate(self._all_waiting(model))
        ]
        if not engines or not any(waiting):
            return []
        unmet = [max(0, n - run[2]) for n, run in zip(waiting, running, strict=True)]
        n_free = sum(max(0, places_of(one) - self.n_running(one)) for one in engines)
        able = [
            min(over, max(0, run[2] - n))
            for over, run, n in zip(self._over(engines), running, waiting, strict=True)
        ]
        n_ours = givers(able, max(0, sum(unmet) - n_free))[self._rank]
        now_s, theirs = self._clock.monotonic_s(), unmet[: self._rank] + unmet[self._rank + 1 :]
        waits = [
            now_s - self._wanted_since_s.get((one.id, model), now_s)
            for one, n in zip(self._siblings, theirs, strict=True)
            for _ in range(n)
        ]
        return sorted(waits, reverse=True)[:n_ours]

    def is_overdue(self, model: str) -> bool:
        """Whether our work for the model has waited for a place that long that it goes first."""
        since_s = self._without_since_s.get(model)
        return since_s is not None and self._clock.monotonic_s() - since_s >= _OVERDUE_S

    def _look(self, now_s: float) -> None:
        before, self._without_since_s = self._without_since_s, {}
        for model in self._own_models() if self._siblings else ():
            engines = self._ready(model)
            if engines and not any(self.turns.count(one) for one in engines):
                self._without_since_s[model] = before.get(model, now_s)

    def _own_models(self) -> list[str]:
        """Those of our own engines that we have work waiting for."""
        elsewhere = {one.state.model for one in self.engines if one.external and not one.peer}
        lines = [model for model in self._lines.models if self._lines.of(model)]
        return [one for one in {*lines, *self.embeddings()} if one not in elsewhere]

    def _waiting(self, model: str) -> TierCounts:
        line = self._lines.of(model)
        counts = [line.waiting(tier) for tier in TIERS]
        if self.is_overdue(model) and not counts[0]:
            tier = next((number for number, n in enumerate(counts) if n), 0)
            counts[tier] -= bool(tier)
            counts[0] += bool(tier)
        return _sum(((counts[0], counts[1], counts[2]), self.embeddings().get(model, NONE)))

    def _ready(self, model: str) -> list[PooledEngine]:
        states = ((one, one.state) for one in self.engines)
        return [one for one, is_ in states if is_.phase == "ready" and is_.model == model]

    def _parts(self, engine: PooledEngine, waiting: Sequence[TierCounts]) -> list[TierCounts]:
        """Of what waits at each gateway for the engine's model, what this engine may get."""
        engines = self._ready(engine.state.model)
        if engine not in engines:
            return list(waiting)
        at, found = engines.index(engine), list[TierCounts]()
        for rank, counts in enumerate(waiting):
            places = [places_of(one) if self._sees(rank, one) else 0 for one in engines]
            priority, default, flex = (parts(n, places)[at] for n in counts)
            found.append((priority, default, flex))
        return found

    def _sees(self, rank: int, engine: PooledEngine) -> bool:
        """Whether that gateway could use the engine."""
        if rank == self._rank:
            return True
        report = self._siblings[rank - (rank > self._rank)].report
        return engine.state.url in report.engines

    def _shares(self, engine: PooledEngine, n_places: int, coming: Tier | None = None) -> list[int]:
        """Of all gateways, by what they have under way there and what waits."""
        waiting = list(self._all_waiting(engine.state.model))
        if coming is not None:
            waiting[self._rank] = _sum((waiting[self._rank], _one(coming)))
        part = self._parts(engine, waiting)
        needs = [_sum(both) for both in zip(self._all_running(engine), part, strict=True)]
        return self._divided(engine, n_places, needs)

    def _over(self, engines: Sequence[PooledEngine]) -> list[int]:
        """What each gateway has under way there beyond its shares."""
        found = [0] * (len(self._siblings) + 1)
        for engine in engines:
            shares = self._shares(engine, places_of(engine))
            both = zip(self._all_running(engine), shares, strict=True)
            more = [max(0, sum(running) - share) for running, share in both]
            found = [before + now for before, now in zip(found, more, strict=True)]
        return found

    def _divided(
        self, engine: PooledEngine, n_places: int, needs: Sequence[TierCounts]
    ) -> list[int]:
        url = engine.state.url or engine.state.name
        turn = zlib.crc32(url.encode()) + int(self._clock.now_s() // TURN_S)
        return divide(n_places, needs, turn % len(needs))

    def _all_waiting(self, model: str) -> list[TierCounts]:
        """By gateway, in the order of their seats."""
        found = [one.report.waiting.get(model, NONE) for one in self._siblings]
        found.insert(self._rank, self._waiting(model))
        return found

    def _all_running(self, engine: PooledEngine) -> list[TierCounts]:
        """By gateway, in the order of their seats."""
        found = [use.running for use in self._uses(engine)]
        found.insert(self._rank, self._own(engine))
        return found

    def _uses(self, engine: PooledEngine) -> list[EngineUse]:
        url, nothing = engine.state.url, EngineUse()
        return [one.report.engines.get(url, nothing) for one in self._siblings]

    def _own(self, engine: PooledEngine) -> TierCounts:
        return _sum(map(_tier_of, self.turns.on(engine)))

    def _slots(self, engine: PooledEngine) -> set[int]:
        return {turn.slot for turn in self.turns.on(engine)}


def places_of(engine: PooledEngine) -> int:
    """Requests that the engine takes at once, and has slots for."""
    return min(engine.state.max_concurrent, max(engine.state.n_slots, 1))


def _sum(counts: Iterable[TierCounts]) -> TierCounts:
    priority = default = flex = 0
    for one in counts:
        priority, default, flex = priority + one[0], default + one[1], flex + one[2]
    return priority, default, flex


def _one(tier: Tier) -> TierCounts:
    at = TIERS.index(tier)
    return int(at == 0), int(at == 1), int(at == 2)


def _tier_of(turn: Turn) -> TierCounts:
    """One that runs although higher tiers wait makes no room: it counts as of the highest."""
    return _one("priority" if turn.protected else turn.tier)
