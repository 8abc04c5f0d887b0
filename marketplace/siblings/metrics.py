"""The Prometheus metrics of several gateways as one text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL = "gateway"


def merged(texts: Mapping[int, str]) -> bytes:
    """All gateways' metrics, each sample with the number of its gateway as a label."""
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for found in text_string_to_metric_families(text):
            family = families.get(found.name)
            if family is None:
                family = Metric(found.name, found.documentation, found.type)
                families[found.name] = family
            for sample in found.samples:
                labels = {**sample.labels, LABEL: str(number)}
                family.samples.append(sample._replace(labels=labels))
    registry = CollectorRegistry()
    registry.register(_Collected(families.values()))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
