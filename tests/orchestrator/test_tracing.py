"""Traces from demand to driver call, and logs that name them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import tracing
from tests.orchestrator.site import Site


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def line_of(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> list[str]:
    """The names from the root to the span."""
    names = [span.name]
    while span.parent is not None:
        span = by_id[span.parent.span_id]
        names.insert(0, span.name)
    return names


async def test_a_driver_call_leads_back_to_the_look_that_asked_for_it(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    site = Site(tmp_path)
    await site.control.start()
    await site.control.tick()
    await site.settle()
    await site.close()
    done = spans.get_finished_spans()
    by_id = {span.context.span_id: span for span in done}
    created = [span for span in done if span.name == "driver.create"]
    assert {tuple(line_of(span, by_id)) for span in created} == {
        ("tick", "apply", "step", "driver.create")
    }
    assert created[0].attributes["airan.profile"] == "4g.48gb"
    assert any(line_of(span, by_id) == ["tick", "plan"] for span in done)


async def test_a_failed_call_is_seen_as_failed(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    site = Site(tmp_path)
    site.node.faults.before = {1}
    await site.control.start()
    await site.control.tick()
    await site.settle()
    await site.close()
    failed = [span for span in spans.get_finished_spans() if not span.status.is_ok]
    assert [span.name for span in failed if span.status.description] == ["driver.create", "step"]


def test_a_log_line_is_json_and_names_its_trace(spans: InMemorySpanExporter) -> None:
    record = logging.LogRecord("airan", logging.WARNING, __file__, 1, "late by %d", (3,), None)
    with tracing.span("tick") as current:
        body = json.loads(tracing.JsonFormatter().format(record))
        assert body["trace_id"] == trace.format_trace_id(current.get_span_context().trace_id)
    assert (body["level"], body["message"]) == ("warning", "late by 3")
    assert "trace_id" not in json.loads(tracing.JsonFormatter().format(record))


def test_without_an_endpoint_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing.export_if_wanted("edge-1") is None
