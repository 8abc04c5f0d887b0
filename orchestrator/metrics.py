"""The orchestrator's Prometheus metrics, `airan_orchestrator_*`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from orchestrator.views import SlotStats

_P = "airan_orchestrator_"


class SlotCollector(Collector):
    """The slot runtime's counts since the site's start, as it reported them.

    Latencies are seconds on the slowed slot clock; the slot budget is a bucket's edge.
    """

    def __init__(self, stats: Callable[[], SlotStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        stats = self._stats()
        yield CounterMetricFamily(_P + "slots", "Uplink slots", value=stats.slots)
        yield CounterMetricFamily(_P + "slots_late", "After their budget", value=stats.slots_late)
        yield CounterMetricFamily(
            _P + "slots_dropped", "Not received at all", value=stats.slots_dropped
        )
        if not stats.histogram_edges_us:
            return
        edges = [f"{edge / 1e6:.9g}" for edge in stats.histogram_edges_us] + ["+Inf"]
        total, buckets = 0, []
        for edge, count in zip(edges, stats.histogram_counts, strict=True):
            total += count
            buckets.append((edge, float(total)))
        yield HistogramMetricFamily(
            _P + "slot_latency_seconds",
            f"From arrival to decoded block, slot clock slowed {stats.slowdown:g}x",
            buckets=buckets,
            sum_value=None,
        )


class Metrics:
    """All metrics of one control plane, in their own registry."""

    def __init__(self, slots: Callable[[], SlotStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(SlotCollector(slots))
        at = self.registry
        self.partition_sms = Gauge(_P + "partition_sms", "SMs by role", ["role"], registry=at)
        self.demand_share = Gauge(_P + "demand_share", "RAN demand", ["when"], registry=at)
        self.leases = Gauge(_P + "leases", "Live leases", registry=at)
        self.leases_ended = Counter(_P + "leases_ended", "Ended leases", ["reason"], registry=at)
        self.plans = Counter(_P + "plans", "Plans by what became of them", ["state"], registry=at)
        self.alarms = Counter(_P + "slot_alarms", "Alarming slot reports", registry=at)
        self.alarm = Gauge(_P + "slot_alarm_raised", "1 while no lease is given", registry=at)
        self.drift = Gauge(
            _P + "drift", "Partitions that are not as the plan left them", registry=at
        )
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
        self.alarm_seconds = Histogram(
            _P + "alarm_to_ran_seconds",
            "From a slot alarm to every partition in the RAN's hands",
            buckets=(0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1, 3),
            registry=at,
        )
        self.reclaim_seconds = Histogram(
            _P + "reclaim_seconds",
            "From revoking a lease to its end",
            buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
            registry=at,
        )
