"""What is counted at a site, added up over sites, and made into a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sims.fleet.histogram import Histogram
from sims.fleet.scenario import Scenario

_HOUR_S = 3600.0


@dataclass
class Account:
    """Sums of one site, or of many. SM-seconds, seconds, joules, counts."""

    sm_seconds: float = 0.0
    """All SMs, also of lost GPUs."""
    ran_needed: float = 0.0
    """SM-seconds that the cells needed and had."""
    ran_held: float = 0.0
    ai_leased: float = 0.0
    ai_worked: float = 0.0
    """SM-seconds of leases, as far as their engine worked at full batch."""
    site_seconds: float = 0.0
    floor_broken_s: float = 0.0
    """Seconds of sites whose RAN had less than the policy's floor while the GPUs had it."""
    short_s: float = 0.0
    """Seconds of sites whose RAN had less than its cells needed while the GPUs had it."""
    outage_s: float = 0.0
    """Seconds of sites without a GPU."""
    slots: float = 0.0
    slots_late: int = 0
    slots_late_unavoidable: int = 0
    """Of them those while the RAN had every partition."""
    alarms: int = 0
    plans: int = 0
    revocations: int = 0
    preemptions: float = 0.0
    joules: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    tiers: dict[str, dict[str, float]] = field(default_factory=dict)
    waits: dict[str, list[float]] = field(default_factory=dict)
    daily: list[list[float]] = field(default_factory=list)
    """By day: SM-seconds in all, needed by the RAN, worked by the AI."""
    refused: list[list[Any]] = field(default_factory=list)
    """What may be done elsewhere; each as a `sims.fleet.cohort.Refused`. Of one site."""
    spare: list[list[float]] = field(default_factory=list)
    """By step, of one site's engines: seconds without work, the tokens of answers and those of
    prompts that they could have done in it, SM-seconds."""
    overflow: dict[str, float] = field(default_factory=dict)
    """What peers did: see `sims.fleet.federation`."""

    def add(self, other: Account) -> None:
        """Adds those of another site."""
        for one in fields(self):
            mine, its = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, int | float):
                setattr(self, one.name, mine + its)
        for fault, n in sorted(other.faults.items()):
            self.faults[fault] = self.faults.get(fault, 0) + n
        for tier, counts in other.tiers.items():
            sums = self.tiers.setdefault(tier, dict.fromkeys(counts, 0))
            for name, count in counts.items():
                sums[name] += count
        for tier, waited in other.waits.items():
            histogram = Histogram(self.waits.get(tier))
            histogram.merge(Histogram(waited))
            self.waits[tier] = histogram.counts
        for name, value in other.overflow.items():
            self.overflow[name] = self.overflow.get(name, 0) + value
        self.daily = self.daily or [[0.0] * 3 for _ in other.daily]
        for sums_of_day, one_day in zip(self.daily, other.daily, strict=True):
            for index, value in enumerate(one_day):
                sums_of_day[index] += value

    def body(self) -> dict[str, Any]:
        """What `restored` takes, as JSON."""
        return asdict(self)


def restored(body: Mapping[str, Any]) -> Account:
    """The account whose `body` went through JSON."""
    return Account(**body)


def summary(name: str, scenario: Scenario, sites: Sequence[Account]) -> dict[str, Any]:
    """What a policy made of the fleet; sites in their order, so that sums are the same always."""
    total = Account()
    for site in sites:
        total.add(site)
    sms = max(total.sm_seconds, 1e-9)
    ran, ai = total.ran_needed / sms, total.ai_worked / sms
    hours = total.site_seconds / _HOUR_S
    kwh = total.joules * scenario.energy.pue / 3.6e6
    made = sum(counts["generated_tokens"] for counts in total.tiers.values())
    micro_usd = sum(int(counts["micro_usd"]) for counts in total.tiers.values())
    return {
        "policy": name,
        "kind": scenario.policies[name].kind,
        "utilisation": {"ran": ran, "ai": ai, "total": ran + ai},
        "held": {"ran": total.ran_held / sms, "ai": total.ai_leased / sms},
        "ran": {
            "floor_broken_s": total.floor_broken_s,
            "short_s": total.short_s,
            "outage_s": total.outage_s,
            "slots": total.slots,
            "slots_late": total.slots_late,
            "slots_late_with_every_partition": total.slots_late_unavoidable,
            "late_share": total.slots_late / max(total.slots, 1.0),
            "alarms": total.alarms,
        },
        "ai": {
            "tokens": made,
            "tokens_per_s": made / max(total.site_seconds / len(sites), 1e-9),
            "preemptions": round(total.preemptions),
            "preempted_for_priority": sum(one["preempted"] for one in total.tiers.values()),
            "moved": sum(one["moved"] for one in total.tiers.values()),
            "revocations": total.revocations,
            "tiers": {tier: _tier(counts, total, tier) for tier, counts in total.tiers.items()},
        },
        "energy_kwh": kwh,
        "revenue_usd": micro_usd / 1e6,
        "revenue_usd_per_gpu_hour": micro_usd / 1e6 / max(hours * scenario.gpus_per_site, 1e-9),
        "overflow": {
            "to_sites": int(total.overflow.get("to_sites", 0)),
            "to_clouds": int(total.overflow.get("to_clouds", 0)),
            "between_sites_usd": total.overflow.get("sites_micro_usd", 0) / 1e6,
            "clouds_cost_usd": total.overflow.get("clouds_micro_usd", 0) / 1e6,
        },
        "plans": total.plans,
        "faults": total.faults,
        "daily_utilisation": [
            {"ran": needed / max(whole, 1e-9), "ai": worked / max(whole, 1e-9)}
            for whole, needed, worked in total.daily
        ],
    }


def _tier(counts: Mapping[str, float], total: Account, tier: str) -> dict[str, float | None]:
    waited = Histogram(total.waits[tier])
    told = {name: value for name, value in counts.items() if name != "micro_usd"}
    told["retry_after_s"] = counts["retry_after_s"] / max(1, counts["refused_late"])
    told["revenue_usd"] = counts["micro_usd"] / 1e6
    return told | {
        f"ttft_p{percent}_s": waited.quantile(percent / 100.0) for percent in (50, 95, 99)
    }
