"""The Azure trace: a window of it, faster or slower, with fewer requests and shorter ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from airan.bench.replay.tenants import Tenant
from airan.core.errors import ConfigError, InvalidInputError
from sims.llm_load import LlmRequest, from_csv

SHIPPED = Path(__file__).parents[1] / "data" / "azure_llm_inference_trace_conv.csv.gz"
NAME = "Azure LLM inference trace 2023, conversations (Splitwise, ISCA 2024; CC-BY 4.0)"


@dataclass(frozen=True)
class TraceOptions:
    """Which part of a trace is replayed, and how it is scaled.

    Raises:
        InvalidInputError: a figure is out of range.
    """

    path: Path = field(default=SHIPPED)
    start_s: float = 0.0
    """In the trace's time."""
    duration_s: float = 60.0
    """Of the replay, wall time: `speed_up` times as much of the trace."""
    speed_up: float = 10.0
    every: int = 40
    """One request in so many is sent."""
    token_scale: float = 1 / 16
    """Tokens of prompt and answer are multiplied by this."""
    seed: int = 1
    """Of who sends which request, and of the prompts' words."""

    def __post_init__(self) -> None:
        for name in ("duration_s", "speed_up", "token_scale"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidInputError(
                    name, f"is {getattr(self, name)}", remedy="give a number above 0"
                )
        if not 0.0 <= self.start_s < float("inf"):
            raise InvalidInputError("start_s", f"is {self.start_s}", remedy="give 0 or more")
        if self.every < 1:
            raise InvalidInputError("every", f"is {self.every}", remedy="give 1 or more")


@dataclass(frozen=True)
class Planned:
    """A request to be sent `at_s` seconds of wall time after the replay's begin."""

    number: int
    at_s: float
    tenant: Tenant
    n_prompt: int
    """Tokens that the prompt should have, the chat template's included."""
    n_answer: int
    """`max_tokens`."""
    clipped: bool
    """Whether it was made shorter to fit the model's context."""


def plan_replay(options: TraceOptions, tenants: Sequence[Tenant], n_ctx: int) -> list[Planned]:
    """Reads the trace and says who sends what and when, by time. Same options, same plan.

    Raises:
        ConfigError: the trace cannot be read, or has no request in the window.
    """
    chosen = window(from_csv(options.path), options)
    if not chosen:
        raise ConfigError(
            f"trace {options.path} has no requests from second {options.start_s:g} on",
            remedy="give an earlier --start, a longer --duration or a smaller --every",
        )
    random_ = random.Random(options.seed)
    senders = random_.choices(tenants, [one.demand for one in tenants], k=len(chosen))
    return [
        _planned(number, request, tenant, n_ctx)
        for number, (request, tenant) in enumerate(zip(chosen, senders, strict=True))
    ]


def window(requests: Sequence[LlmRequest], options: TraceOptions) -> list[LlmRequest]:
    """Every k-th request of the window; arrivals in wall seconds from its begin, tokens scaled."""
    end_s = options.start_s + options.duration_s * options.speed_up
    inside = [one for one in requests if options.start_s <= one.arrival_s < end_s]
    return [
        LlmRequest(
            (one.arrival_s - options.start_s) / options.speed_up,
            max(1, round(one.context_tokens * options.token_scale)),
            max(1, round(one.generated_tokens * options.token_scale)),
        )
        for one in inside[:: options.every]
    ]


def _planned(number: int, request: LlmRequest, tenant: Tenant, n_ctx: int) -> Planned:
    n_answer = min(request.generated_tokens, n_ctx // 2)
    n_prompt = min(request.context_tokens, n_ctx - n_answer)
    clipped = (n_prompt, n_answer) != (request.context_tokens, request.generated_tokens)
    return Planned(number, request.arrival_s, tenant, n_prompt, n_answer, clipped)
