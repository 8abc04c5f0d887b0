"""OpenTelemetry traces from demand to driver call, and logs that name their trace.

Nothing is recorded unless OTEL_EXPORTER_OTLP_ENDPOINT says where to send it, or the process that
embeds the orchestrator has set up OpenTelemetry itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from airan.core.errors import ConfigError

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
Value = str | int | float | bool


@contextmanager
def span(name: str, parent: Context | None = None, **attributes: Value) -> Iterator[trace.Span]:
    """A span around some work; an error that leaves it is recorded."""
    tracer = trace.get_tracer("airan.orchestrator")
    with tracer.start_as_current_span(
        name,
        context=parent,
        attributes={f"airan.{key}": value for key, value in attributes.items()},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            current.record_exception(error)
            current.set_status(Status(StatusCode.ERROR, str(error)))
            raise


def here() -> Context:
    """The present span, to be the parent of work done later."""
    return contexts.get_current()


def export_if_wanted(site: str) -> TracerProvider | None:
    """Sends traces where the environment says; None if it says nothing.

    Raises:
        ConfigError: the exporter is not installed.
    """
    if not os.environ.get(_ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"{_ENDPOINT} is set, but the exporter is not installed",
            remedy="install airan with its extra `tracing`, or unset it",
        ) from error
    resource = Resource.create({"service.name": "airan-orchestrator", "airan.site": site})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the trace it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        body: dict[str, Any] = {
            "time_s": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            body["trace_id"] = trace.format_trace_id(current.trace_id)
            body["span_id"] = trace.format_span_id(current.span_id)
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body)
