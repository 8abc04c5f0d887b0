"""The orchestrator's Prometheus metrics, `airan_orchestrator_*`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_P = "airan_orchestrator_"


class Metrics:
    """All metrics of one control plane, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        at = self.registry
        self.partition_sms = Gauge(_P + "partition_sms", "SMs by role", ["role"], registry=at)
        self.demand_share = Gauge(_P + "demand_share", "RAN demand", ["when"], registry=at)
        self.leases = Gauge(_P + "leases", "Live leases", registry=at)
        self.leases_ended = Counter(_P + "leases_ended", "Ended leases", ["reason"], registry=at)
        self.plans = Counter(_P + "plans", "Plans by what became of them", ["state"], registry=at)
        self.alarms = Counter(_P + "slot_alarms", "Alarming slot reports", registry=at)
        self.alarm = Gauge(_P + "slot_alarm_raised", "1 while no lease is given", registry=at)
        self.plan_seconds = Histogram(
            _P + "plan_seconds",
            "Time to plan",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
            registry=at,
        )
        self.apply_seconds = Histogram(
            _P + "apply_seconds",
            "Time to apply a plan",
            buckets=(0.1, 0.3, 1, 3, 10, 30),
            registry=at,
        )
        self.reclaim_seconds = Histogram(
            _P + "reclaim_seconds",
            "From revoking a lease to its end",
            buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
            registry=at,
        )
