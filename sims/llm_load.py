"""LLM requests over a day: generated, or read from a trace in the Azure Public Dataset's form."""

from __future__ import annotations

import csv
import gzip
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from airan.core.clock import DAY_S
from airan.core.errors import ConfigError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class LlmRequest:
    """One request: when it arrives, in seconds after the start, and how long it is in tokens."""

    arrival_s: float
    context_tokens: int
    generated_tokens: int


def generate(n_requests: int, seed: int) -> list[LlmRequest]:
    """Draws `n_requests` requests over one day (seconds 0..86400), sorted by arrival.

    Arrivals follow people: half as many at night as from 9 to 21 h. Lengths are log-normal; their
    medians are those of short chat turns, shorter than in production traces so that a small
    model on a CPU keeps up. Generated, not measured.
    """
    random_ = random.Random(seed)
    requests: list[LlmRequest] = []
    while len(requests) < n_requests:
        hour = random_.uniform(0.0, 24.0)
        if random_.random() > activity(hour):
            continue
        context = min(400, max(8, round(random_.lognormvariate(math.log(40), 0.7))))
        generated = min(160, max(8, round(random_.lognormvariate(math.log(56), 0.5))))
        requests.append(LlmRequest(hour * 3600.0, context, generated))
    return sorted(requests, key=lambda request: request.arrival_s)


def from_csv(path: Path) -> list[LlmRequest]:
    """Reads a trace with the columns TIMESTAMP, ContextTokens, GeneratedTokens; `.gz` is unpacked.

    Arrivals come back relative to the first, sorted. Form: Azure Public Dataset, LLM inference
    trace 2023 (CC-BY 4.0; Patel et al., Splitwise, ISCA 2024).

    Raises:
        ConfigError: the file is missing, lacks a column, or a row is not valid; the message
            names the line.
    """
    try:
        with _open(path) as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(
                    f"LLM trace {path} lacks the column {missing[0]}",
                    remedy=f"the first line must read {','.join(COLUMNS)}",
                )
            rows = [_row(path, line, row) for line, row in enumerate(reader, start=2)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(
            f"LLM trace {path} cannot be read: {error}",
            remedy=f"give a CSV file with the columns {','.join(COLUMNS)}",
        ) from error
    if not rows:
        raise ConfigError(f"LLM trace {path} has no rows", remedy="give at least one request")
    first_s = min(arrival_s for arrival_s, _, _ in rows)
    return sorted(
        (LlmRequest(arrival_s - first_s, context, made) for arrival_s, context, made in rows),
        key=lambda request: request.arrival_s,
    )


def fit_to_day(
    requests: Sequence[LlmRequest], n_requests: int, max_context: int, max_generated: int
) -> list[LlmRequest]:
    """Stretches a trace over one day, keeps every k-th request, clips lengths to the limits."""
    if not requests:
        return []
    span_s = max(requests[-1].arrival_s, 1.0)
    step = max(1, math.ceil(len(requests) / n_requests))
    return [
        LlmRequest(
            request.arrival_s / span_s * DAY_S * 0.999,
            min(request.context_tokens, max_context),
            min(request.generated_tokens, max_generated),
        )
        for request in requests[::step]
    ]


def activity(hour: float) -> float:
    """Requests at that hour of the day, relative to the busiest: half as many at night."""
    day = 1.0 / (1.0 + math.exp(-(hour - 8.0) * 2.0)) / (1.0 + math.exp((hour - 22.0) * 1.5))
    return 0.5 + 0.5 * day


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8")
    return path.open(newline="", encoding="utf-8")


def _row(path: Path, line: int, row: dict[str, str]) -> tuple[float, int, int]:
    try:
        # The trace carries 7 decimals of a second; datetime takes 6.
        stamp = row["TIMESTAMP"].strip()
        whole, _, fraction = stamp.partition(".")
        moment = datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6].ljust(6, '0')}+00:00")
        context, made = int(row["ContextTokens"]), int(row["GeneratedTokens"])
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"LLM trace {path} line {line}: {error}",
            remedy="TIMESTAMP must read YYYY-MM-DD HH:MM:SS.fff, the token counts whole numbers",
        ) from error
    if context < 0 or made < 0:
        raise ConfigError(
            f"LLM trace {path} line {line}: token counts must not be negative",
            remedy="correct that line",
        )
    return moment.timestamp(), context, made
