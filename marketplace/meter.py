"""What the marketplace counts: for `GET /admin/v1/stats` and for Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from marketplace.store.ledger import Outcome

_RATE_WINDOW_S = 5.0
_BUCKET_S = 0.25
_N_TTFT = 1000
_TTFT_EDGES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COLD_EDGES_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Meter:
    """Counts since this process started; the totals of earlier lives come from the store."""

    def __init__(self) -> None:
        self._ttft_ms: deque[float] = deque(maxlen=_N_TTFT)
        self._buckets: deque[tuple[float, int]] = deque()
        self.registry = CollectorRegistry()
        prefix = "airan_marketplace_"
        self.requests = Counter(
            prefix + "requests", "Requests that ended", ["state"], registry=self.registry
        )
        self.preemptions = Counter(
            prefix + "preemptions",
            "Times a request lost its engine, by what took it",
            ["cause"],
            registry=self.registry,
        )
        self.token_counter = Counter(
            prefix + "tokens",
            "Tokens of requests that ended",
            ["direction"],
            registry=self.registry,
        )
        self.lost = Counter(
            prefix + "tokens_lost", "Generated tokens missing from answers", registry=self.registry
        )
        self.generated = Counter(
            prefix + "generated_tokens", "Tokens received from engines", registry=self.registry
        )
        self.ttft = Histogram(
            prefix + "time_to_first_token_seconds",
            "From the request's arrival to its first token",
            buckets=_TTFT_EDGES_S,
            registry=self.registry,
        )
        self.ttft_error = Histogram(
            prefix + "time_to_first_token_prediction_error_seconds",
            "How much later or earlier than predicted the first token came",
            ["tier", "side"],
            buckets=_TTFT_EDGES_S,
            registry=self.registry,
        )
        self.refusals = Counter(
            prefix + "requests_refused",
            "Requests refused because their tier's time to first token could not be kept",
            ["tier"],
            registry=self.registry,
        )
        self.cold_starts = Histogram(
            prefix + "cold_start_seconds",
            "From the first request for an unloaded model to its engine being ready",
            ["model"],
            buckets=_COLD_EDGES_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            prefix + "requests_in_flight", "Requests by state", ["state"], registry=self.registry
        )
        self.engines_ready = Gauge(
            prefix + "engines_ready", "Engines with a lease", registry=self.registry
        )
        self.http = Counter(
            prefix + "http_responses", "HTTP responses", ["status"], registry=self.registry
        )

        self.unheard = Counter(
            prefix + "gateways_unheard",
            "Times another gateway did not answer a scrape in time, and was left out of it",
            registry=self.registry,
        )

    def tokens(self, count: int, now_s: float) -> None:
        """Notes generated tokens at monotonic time `now_s`."""
        if not count:
            return
        self.generated.inc(count)
        start_s = now_s - now_s % _BUCKET_S
        if self._buckets and self._buckets[-1][0] == start_s:
            self._buckets[-1] = (start_s, self._buckets[-1][1] + count)
        else:
            self._buckets.append((start_s, count))
            self._forget(now_s)

    def tokens_per_s(self, now_s: float) -> float:
        """Generated tokens a second over the last 5 s."""
        self._forget(now_s)
        return sum(count for _, count in self._buckets) / _RATE_WINDOW_S

    def load_ttft(self, ttft_ms: list[float]) -> None:
        """Takes over the times to first token that an earlier process stored, oldest first."""
        self._ttft_ms.extend(ttft_ms)

    def observe(self, live: dict[str, Any]) -> None:
        """Sets the gauges to what is going on now."""
        self.in_flight.labels("waiting").set(live["waiting"])
        self.in_flight.labels("running").set(live["running"])
        ready = sum(engine["phase"] == "ready" for engine in live["engines"])
        self.engines_ready.set(ready)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

    def first_token(
        self, ttft_ms: float, tier: str = "default", predicted_s: float | None = None
    ) -> None:
        """Notes how long a request waited for its first token, and how long it was said to."""
        self._ttft_ms.append(ttft_ms)
        self.ttft.observe(ttft_ms / 1e3)
        if predicted_s is not None:
            late_s = ttft_ms / 1e3 - predicted_s
            self.ttft_error.labels(tier, "late" if late_s > 0 else "early").observe(abs(late_s))

    def cold_start(self, model: str, seconds: float) -> None:
        """Notes how long an unloaded model took to be back."""
        self.cold_starts.labels(model).observe(seconds)

    def refused(self, tier: str) -> None:
        """Notes that a request was refused because its tier could not be kept."""
        self.refusals.labels(tier).inc()

    def preempted(self, cause: str = "engine") -> None:
        """Notes that a request lost its engine, which went, or was wanted for priority work."""
        self.preemptions.labels(cause).inc()

    def finished(self, outcome: Outcome) -> None:
        """Notes the end of a request."""
        self.requests.labels(outcome.state).inc()
        self.token_counter.labels("input").inc(outcome.input_tokens)
        self.token_counter.labels("output").inc(outcome.output_tokens)
        self.lost.inc(outcome.tokens_lost)

    def ttft_percentiles(self) -> dict[str, float | None]:
        """p50 and p99 of the last 1,000 requests, in ms; None without any."""
        return percentiles(self._ttft_ms)

    def _forget(self, now_s: float) -> None:
        while self._buckets and self._buckets[0][0] < now_s - _RATE_WINDOW_S:
            self._buckets.popleft()


def percentiles(ttft_ms: Collection[float]) -> dict[str, float | None]:
    """p50 and p99 of these times; None without any."""
    ordered = sorted(ttft_ms)
    if not ordered:
        return {"p50": None, "p99": None}
    last = len(ordered) - 1
    return {"p50": ordered[round(0.5 * last)], "p99": ordered[round(0.99 * last)]}


def stats(totals: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """The body of GET /admin/v1/stats from the store's totals and what is going on now."""
    states = totals["states"]
    return {
        "requests": {
            "received": totals["received"],
            "completed": states.get("completed", 0),
            "preempted": totals["preempted"],
            "failed": states.get("failed", 0),
            "cancelled": states.get("cancelled", 0),
            "waiting": live["waiting"],
            "running": live["running"],
        },
        "tokens": {
            "input": totals["input_tokens"],
            "output": totals["output_tokens"] + live["output_tokens"],
            "lost": totals["tokens_lost"],
        },
        "tokens_per_s": live["tokens_per_s"],
        "revenue_usd": totals["revenue_micro_usd"] / 1e6,
        "engines": live["engines"],
        "time_to_first_token_ms": live["time_to_first_token_ms"],
    }
