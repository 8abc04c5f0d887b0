"""On which of a site's engines requests begin: by the live choice of a place."""

from __future__ import annotations

from collections.abc import Sequence

from marketplace.dispatch.admission import Work
from marketplace.dispatch.places import Room, choose_place
from marketplace.dispatch.prefixes import PrefixTable
from marketplace.dispatch.speeds import Speeds
from marketplace.engines.base import EngineState
from marketplace.pool import PooledEngine
from sims.fleet.engines import EngineTable

_MODEL = "simulated"


class Router:
    """The engines of one site, and how many requests of this step each has."""

    def __init__(self, table: EngineTable) -> None:
        self._table = table
        self._engines: list[PooledEngine] = []
        self._speeds, self._prefixes = Speeds(), PrefixTable()
        self._load: list[float] = []

    def engines(self, sms: Sequence[int]) -> None:
        """From now on there are engines on so many SMs each."""
        self._engines, self._speeds = [], Speeds()
        self._load = [0.0] * len(sms)
        for number, count in enumerate(sms):
            engine = PooledEngine(f"engine-{number}")
            places = self._table.concurrent(count)
            engine.state = EngineState(
                f"engine-{number}",
                _MODEL,
                "ready",
                sm_count=count,
                url=f"simulated:{number}",
                max_concurrent=places,
                n_slots=places,
            )
            self._speeds.note_first_token(engine.state, 1, 1.0 / self._table.prefill_rate(count))
            token_s = places / self._table.decode_rate(count)
            self._speeds.note_tokens(engine.state, places, token_s)
            self._engines.append(engine)

    def begin_step(self) -> None:
        """What came in the last step is done, or counts no more."""
        self._load = [0.0] * len(self._engines)

    def choose(self, work: Work, at_once: float) -> int | None:
        """The engine on which requests begin that keep `at_once` places busy in the mean; None:
        all are full."""
        rooms = [
            Room(engine, set(range(round(load))))
            for engine, load in zip(self._engines, self._load, strict=True)
            if round(load) < engine.state.max_concurrent
        ]
        if not rooms:
            return None
        place = choose_place(work, (), rooms, self._prefixes, self._speeds, ())
        number = self._engines.index(place.engine)
        self._load[number] += at_once
        return number

    def sm_count(self, number: int) -> int:
        """Of that engine."""
        return self._engines[number].state.sm_count
