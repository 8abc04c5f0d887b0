"""Slots as Prometheus sees them: cumulative buckets, the budget among their edges."""

from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.metrics import SlotCollector
from orchestrator.views import SlotStats


def test_the_slot_histogram_is_cumulative_and_has_the_budget_as_an_edge() -> None:
    stats = SlotStats(
        slots=9,
        slots_late=1,
        budget_us=100_000.0,
        slowdown=80.0,
        histogram_counts=(6, 2, 1),
        histogram_edges_us=(50_000.0, 100_000.0),
    )
    registry = CollectorRegistry()
    registry.register(SlotCollector(lambda: stats))
    text = generate_latest(registry).decode()
    name = "airan_orchestrator_slot_latency_seconds"
    assert f'{name}_bucket{{le="0.05"}} 6.0' in text
    assert f'{name}_bucket{{le="0.1"}} 8.0' in text
    assert f'{name}_bucket{{le="+Inf"}} 9.0' in text
    assert "airan_orchestrator_slots_late_total 1.0" in text
    assert "slowed 80x" in text


def test_there_is_no_histogram_before_the_first_report() -> None:
    registry = CollectorRegistry()
    registry.register(SlotCollector(SlotStats))
    assert "latency" not in generate_latest(registry).decode()
