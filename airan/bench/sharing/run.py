"""`airan bench sharing`: the runs, one after the other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airan.bench.sharing import report
from airan.bench.sharing.process import SideProcess
from airan.bench.sharing.report import RunResult
from airan.bench.sharing.side import SideOrder
from airan.bench.sharing.ways import DEFAULT_WAYS, Run, Way, runs, way
from airan.core.errors import AiranError, InvalidInputError
from orchestrator.drivers.mps import MpsDaemon, MpsShare, without_mps
from phy.gpu.bench_slots import TracedSlot

_READY_S = 120.0
_VLLM_READY_S = 300.0
AI = {
    "stand-in": "stand-in: decode steps of an 8B shape, binary16, no attention, no engine",
    "vllm": "vLLM, Llama-8B shape, bfloat16, random weights",
}
"""What the AI side is, by the name of its engine."""
_SETTLE_S = 1.0
_END_S = 60.0
_SLOT_S = 0.5e-3
_SLOTS, _AI = "slots", "ai"


@dataclass(frozen=True)
class SharingOptions:
    """What to measure.

    Attributes:
        ways: names of the ways to share.
        n_slots: slots of 0.5 ms of each run.
        n_cells: cells.
        is_average: at average load instead of peak.
        batch: sequences of the AI.
        engine: of the AI, "stand-in" or "vllm".
        step_tokens: most tokens of one step of vLLM; None: its own.

    Raises:
        InvalidInputError: out of range.
    """

    ways: tuple[str, ...] = DEFAULT_WAYS
    n_slots: int = 10_000
    n_cells: int = 20
    is_average: bool = False
    batch: int = 128
    engine: str = "stand-in"
    step_tokens: int | None = None

    def __post_init__(self) -> None:
        self.chosen()
        if self.engine not in AI:
            raise InvalidInputError("engine", f"must be {' or '.join(AI)}, got {self.engine!r}")
        if self.step_tokens is not None and self.engine != "vllm":
            raise InvalidInputError("step-tokens", "are vLLM's", remedy="add --engine vllm")
        if self.step_tokens is not None and self.step_tokens < self.batch:
            raise InvalidInputError(
                "step-tokens", f"must be at least the batch, {self.batch}, got {self.step_tokens}"
            )
        if not 1 <= self.n_cells <= 40:
            raise InvalidInputError("cells", f"must lie in [1, 40], got {self.n_cells}")
        if self.n_slots < 100:
            raise InvalidInputError("slots", f"must be at least 100, got {self.n_slots}")
        if not 1 <= self.batch <= 1024:
            raise InvalidInputError("batch", f"must lie in [1, 1024], got {self.batch}")

    def chosen(self) -> list[Way]:
        """The ways."""
        return [way(name) for name in self.ways]


@dataclass
class SharingReport:
    """Everything measured.

    Attributes:
        device: the GPU, its driver and clocks.
        started: when, ISO 8601.
        options: what was asked for.
        ai: what the AI side is.
        results: a row a run.
    """

    device: dict[str, Any]
    started: str
    options: SharingOptions
    ai: str = AI["stand-in"]
    results: list[RunResult] = field(default_factory=list)


@dataclass(frozen=True)
class _Side:
    """What both sides gave: slots in order, and when the AI's steps ended."""

    slots: list[TracedSlot]
    ended_s: list[float]
    tokens: list[int]
    from_s: float
    until_s: float


def measure(
    options: SharingOptions,
    on_run: Callable[[SharingReport, dict[str, Any] | None], None],
    on_progress: Callable[[str], None],
) -> SharingReport:
    """Runs everything. A way that fails becomes a row that tells why; the others go on.

    Args:
        options: what.
        on_run: called after each run with what there is so far, and the run's series.
        on_progress: called with what is measured next.

    Raises:
        UnavailableError: there is no GPU.
    """
    with tempfile.TemporaryDirectory(prefix="airan-sharing-", dir="/tmp") as name:
        folder = Path(name)
        started = datetime.now(UTC).isoformat("T", "seconds")
        out = SharingReport(_device(folder), started, options, AI[options.engine])
        for run in runs(options.chosen()):
            on_progress(run.name)
            result, traced = RunResult(run.name, run.way.name), None
            try:
                both = _measure(run, options, folder, int(out.device["sm_count"]))
                _summarise(result, run, both)
                traced = report.series(run, both.slots, both.ended_s)
            except AiranError as error:
                result.error = str(error)
            out.results.append(result)
            report.compare(out.results)
            on_run(out, traced)
    return out


def _device(folder: Path) -> dict[str, Any]:
    side = SideProcess(SideOrder("device"), without_mps(os.environ, folder), folder)
    try:
        return side.result(_READY_S)
    finally:
        side.close()


def _summarise(result: RunResult, run: Run, both: _Side) -> None:
    result.channels = report.channel_results(both.slots)
    if run.has_ai:
        during = (both.from_s, both.until_s)
        result.tokens_per_s = report.tokens_per_s(both.ended_s, both.tokens, *during)
        result.step_ms = report.step_ms(both.ended_s, *during)


def _measure(run: Run, options: SharingOptions, folder: Path, n_sms: int) -> _Side:
    length_s = options.n_slots * _SLOT_S
    with ExitStack() as stack:
        environments = stack.enter_context(_environments(run.way, options, folder, n_sms))
        sides: dict[str, SideProcess] = {}
        for name in [_AI] * run.has_ai + [_SLOTS] * run.has_slots:
            order = _order(name, run.way, options)
            sides[name] = SideProcess(order, environments[name], folder)
            stack.callback(sides[name].close)
            sides[name].wait_ready(_VLLM_READY_S if order.side == "vllm" else _READY_S)
        for name, side in sides.items():
            side.go()
            time.sleep(_SETTLE_S if name == _AI else 0.0)
        from_s = time.perf_counter()
        slots = []
        if _SLOTS in sides:
            body = sides[_SLOTS].result(20 * length_s + _END_S)
            slots = [TracedSlot(**one) for one in body["slots"]]
        else:
            time.sleep(length_s)
        until_s = time.perf_counter()
        if slots:
            from_s, until_s = slots[0].due_s, slots[-1].due_s
        ended_s: list[float] = []
        tokens: list[int] = []
        if _AI in sides:
            sides[_AI].end_input()
            body = sides[_AI].result(_END_S)
            ended_s, tokens = list(body["ended_s"]), list(body["tokens"])
    return _Side(slots, ended_s, tokens, from_s, until_s)


def _order(name: str, chosen: Way, options: SharingOptions) -> SideOrder:
    load = (options.n_cells, options.is_average, options.n_slots)
    if name == _AI:
        name = "vllm" if options.engine == "vllm" else "decode"
    sms = (chosen.slots_sms, chosen.ai_sms)
    return SideOrder(name, *load, *sms, options.batch, options.step_tokens)


def ai_share(chosen: Way, options: SharingOptions, n_sms: int) -> MpsShare:
    """The AI's as a client of MPS.

    vLLM makes its streams itself, and these do not follow a green context: beside one, MPS holds
    it to as many SMs as are left. The stand-in takes the rest as a green context of its own.
    """
    percent: float | None = chosen.ai_percent
    if chosen.slots_sms is not None and options.engine == "vllm":
        percent = max(1, 100 * (n_sms - chosen.slots_sms) // n_sms)
    return MpsShare(percent, is_lower=chosen.slots_first)


@contextmanager
def _environments(
    chosen: Way, options: SharingOptions, folder: Path, n_sms: int
) -> Iterator[dict[str, dict[str, str]]]:
    """Of both sides; an MPS daemon of our own runs meanwhile, if the way needs one."""
    if not chosen.is_mps:
        alone = without_mps(os.environ, folder)
        yield {_SLOTS: alone, _AI: alone}
        return
    daemon = MpsDaemon(folder / "mps")
    daemon.start()
    try:
        yield {
            _SLOTS: daemon.client(os.environ, MpsShare(chosen.slots_percent)),
            _AI: daemon.client(os.environ, ai_share(chosen, options, n_sms)),
        }
    finally:
        daemon.stop()
