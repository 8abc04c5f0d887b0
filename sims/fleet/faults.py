"""When what fails at a site, and when its GPUs are maintained: the same under every policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from airan.core.clock import DAY_S
from sims.fleet.scenario import Scenario

_YEAR_S = 365.0 * DAY_S
_MAINTENANCE_S = 2 * 3600.0


class Fault(NamedTuple):
    """What happens; `pick` is the GPU's number, or says which engine."""

    kind: str
    """`GPU lost`, `GPU back`, `engine dies`, `maintenance` or `maintenance ends`."""
    pick: int


def drawn(scenario: Scenario, site: int) -> list[tuple[float, Fault]]:
    """(seconds after the first day's beginning, fault), in order."""
    random = np.random.default_rng([scenario.seed, site, 3])
    found = [*_losses(scenario, random), *_deaths(scenario, random), *_maintained(scenario, site)]
    return sorted(found)


def _losses(scenario: Scenario, random: np.random.Generator) -> Iterator[tuple[float, Fault]]:
    rate = scenario.faults.gpu_losses_per_year
    for gpu in range(scenario.gpus_per_site):
        at_s = 0.0
        while rate:
            at_s += float(random.exponential(_YEAR_S / rate))
            if at_s >= scenario.days * DAY_S:
                break
            yield at_s, Fault("GPU lost", gpu)
            at_s += float(random.exponential(scenario.faults.gpu_repair_h * 3600.0))
            yield at_s, Fault("GPU back", gpu)


def _deaths(scenario: Scenario, random: np.random.Generator) -> Iterator[tuple[float, Fault]]:
    rate, at_s = scenario.faults.engine_deaths_per_year, 0.0
    while rate:
        at_s += float(random.exponential(_YEAR_S / rate))
        if at_s >= scenario.days * DAY_S:
            break
        yield at_s, Fault("engine dies", int(random.integers(1 << 16)))


def _maintained(scenario: Scenario, site: int) -> Iterator[tuple[float, Fault]]:
    """Each GPU in turn; sites spread over the days between."""
    every = scenario.faults.maintenance_every_days
    if not every:
        return
    n_gpus = scenario.gpus_per_site
    turn = site % max(1, round(every))
    day = float(turn)
    number = 0
    while day < scenario.days:
        begun_s = day * DAY_S + _MAINTENANCE_S
        yield begun_s, Fault("maintenance", number % n_gpus)
        ends_s = begun_s + scenario.faults.maintenance_h * 3600.0
        yield ends_s, Fault("maintenance ends", number % n_gpus)
        day += every / n_gpus
        number += 1
