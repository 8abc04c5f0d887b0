"""Runs every arm under the same load, one after the other, and makes rows of it."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from airan.bench.gateway import arms
from airan.bench.gateway.client import Times, load
from airan.bench.rows import Row, hardware, row

_SETTLE_REQUESTS = 256
"""Answered before anything is measured, by every arm."""


@dataclass(frozen=True)
class GatewayOptions:
    """What to measure."""

    streams: tuple[int, ...] = (1, 32, 128)
    tokens: int = 40
    """Of one stream."""
    token_ms: float = 50.0
    """Between two tokens of the simulated engine."""
    rounds: int = 4
    """Streams of each client."""
    requests: int = 1500
    """Requests without a stream, of 8 tokens that come at once, 32 at a time."""
    litellm: Path | None = None
    """The program `litellm` of an environment of its own; None: no peer."""
    ways: bool = True
    """Our gateway without Ray and behind Serve's proxy, too."""


@dataclass
class Measured:
    """One arm's figures."""

    name: str
    streams: dict[int, Times] = field(default_factory=dict)
    mib_per_stream: float = 0.0
    requests_per_s: float = 0.0
    requests_per_cpu_s: float = 0.0


def measure(options: GatewayOptions, say: Callable[[str], None]) -> list[Row]:
    """Every row; the engine alone comes first, and its times are taken off those of the others.

    Raises:
        UnavailableError: a gateway does not start, or refuses a request.
    """
    found = list(_arms(options, say))
    alone, ours, *others = found
    peers = [one for one in others if one.name.startswith("LiteLLM")]
    rows = list(_rows(options, alone, ours, peers[0] if peers else None, ""))
    for other in others:
        if other not in peers:
            suffix = "_without_ray" if other.name == arms.NAMES["alone"] else "_behind_serve_proxy"
            rows += _rows(options, alone, other, None, suffix)
    return rows


def _arms(options: GatewayOptions, say: Callable[[str], None]) -> Iterator[Measured]:
    with arms.engine(options.token_ms) as paced, arms.engine(0.0) as quick:
        ways: list[Callable[[int], AbstractContextManager[arms.Arm]]] = [
            arms.direct,
            arms.airan,
        ]
        if options.litellm is not None:
            program = options.litellm
            ways.append(lambda port: arms.litellm(port, program))
        if options.ways:
            ways += [lambda port: arms.airan(port, "alone"), lambda port: arms.airan(port, "proxy")]
        for way in ways:
            with way(paced) as arm:
                measured = Measured(arm.target.name)
                _streams(arm, measured, options, say)
            with way(quick) as arm:
                _requests(arm, measured, options, say)
            yield measured


def _streams(
    arm: arms.Arm, measured: Measured, options: GatewayOptions, say: Callable[[str], None]
) -> None:
    say(f"{measured.name}: warming up")
    asyncio.run(load(arm.target, 32, _SETTLE_REQUESTS, 2, stream=True))
    before_mib = arm.memory_mib()
    for concurrent in options.streams:
        say(f"{measured.name}: {concurrent} streams at once")
        times, peak_mib = asyncio.run(_watched(arm, concurrent, options))
        measured.streams[concurrent] = times
        if concurrent == max(options.streams):
            measured.mib_per_stream = (peak_mib - before_mib) / concurrent


async def _watched(arm: arms.Arm, concurrent: int, options: GatewayOptions) -> tuple[Times, float]:
    """The times, and the memory when all streams of the first round are open."""
    n_requests = concurrent * options.rounds
    running = asyncio.create_task(
        load(arm.target, concurrent, n_requests, options.tokens, stream=True)
    )
    await asyncio.sleep(options.tokens * options.token_ms / 2000.0)
    peak_mib = await asyncio.to_thread(arm.memory_mib)
    return await running, peak_mib


def _requests(
    arm: arms.Arm, measured: Measured, options: GatewayOptions, say: Callable[[str], None]
) -> None:
    say(f"{measured.name}: requests a second")
    asyncio.run(load(arm.target, 32, _SETTLE_REQUESTS, 8, stream=False))
    cpu_s = arm.cpu_s()
    times = asyncio.run(load(arm.target, 32, options.requests, 8, stream=False))
    used_s = arm.cpu_s() - cpu_s
    measured.requests_per_s = times.n_requests / times.wall_s
    measured.requests_per_cpu_s = times.n_requests / used_s if used_s else 0.0


def _rows(
    options: GatewayOptions, alone: Measured, ours: Measured, peer: Measured | None, suffix: str
) -> Iterator[Row]:
    where = f"{hardware()}, simulated engine"

    def of(read: Callable[[Measured], float]) -> tuple[float, tuple[str, float] | None]:
        return read(ours), None if peer is None else (peer.name, read(peer))

    for concurrent in options.streams:
        for kind, quantiles in (("first_token_added_ms", (50, 99)), ("token_added_ms", (50, 99))):
            for quantile in quantiles:
                # The latency that is named without more is that of the first token.
                name = "added_latency" if kind.startswith("first") else "added_token_latency"

                def read(
                    one: Measured, kind: str = kind, quantile: int = quantile, n: int = concurrent
                ) -> float:
                    added = _quantile(getattr(one.streams[n], kind), quantile)
                    return added - _quantile(getattr(alone.streams[n], kind), 50)

                value, against = of(read)
                name = f"{name}_p{quantile}_ms_{concurrent}_streams{suffix}"
                yield row(name, value, "ms", where, against)
    for name, unit, look in (
        ("requests_per_second", "requests/s", lambda one: one.requests_per_s),
        ("requests_per_cpu_second", "requests/s", lambda one: one.requests_per_cpu_s),
        ("memory_per_stream", "MiB", lambda one: one.mib_per_stream),
        ("failed_requests", "requests", lambda one: float(_failed(one))),
    ):
        value, against = of(look)
        yield row(name + suffix, value, unit, where, against if name != "failed_requests" else None)


def _failed(one: Measured) -> int:
    return sum(times.n_failed for times in one.streams.values())


def _quantile(values: list[float], quantile: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[quantile - 1]
