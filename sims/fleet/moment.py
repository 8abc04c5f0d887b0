"""A time in which nothing changes at a site, and what it adds to the site's account."""

from __future__ import annotations

import math
from dataclasses import dataclass

from airan.core.clock import DAY_S
from sims.fleet.account import Account
from sims.fleet.scenario import Scenario


@dataclass(frozen=True)
class Moment:
    """SMs and seconds."""

    now_s: float
    seconds: float
    total: int
    """SMs of all GPUs, lost ones too."""
    able: int
    """That can be given to the RAN now."""
    held: int
    """By the RAN."""
    needed: float
    """By the cells."""
    floor_share: float
    """Of the policy."""
    leased: int
    """By engines that generate."""
    worked_s: float
    """For which the engines worked."""

    def count(self, account: Account, scenario: Scenario) -> None:
        """Adds it."""
        seconds, total = self.seconds, self.total
        ran = min(self.needed, self.held)
        floor = min(self.able, math.ceil(self.floor_share * total - 1e-9))
        account.sm_seconds += total * seconds
        account.site_seconds += seconds
        account.ran_needed += ran * seconds
        account.ran_held += self.held * seconds
        account.ai_leased += self.leased * seconds
        account.ai_worked += self.leased * self.worked_s
        account.floor_broken_s += seconds * (self.held < floor)
        account.short_s += seconds * (self.held < min(self.able, math.floor(self.needed)))
        energy = scenario.energy
        busy = ran / total * seconds + self.leased / total * self.worked_s
        used_w = (energy.full_w - energy.idle_w) * busy + energy.idle_w * seconds
        account.joules += used_w * scenario.gpus_per_site
        day = account.daily[min(len(account.daily) - 1, int(self.now_s // DAY_S))]
        day[0] += total * seconds
        day[1] += ran * seconds
        day[2] += self.leased * self.worked_s

    def count_spare(self, spare: list[float], rates: tuple[float, float]) -> None:
        """Adds what the engines, so fast together, could have done for others."""
        idle_s = self.seconds - self.worked_s
        if idle_s > 0.0 and self.leased:
            decode, prefill = rates
            for index, value in enumerate((idle_s, idle_s * decode, idle_s * prefill)):
                spare[index] += value
            spare[3] += idle_s * self.leased
