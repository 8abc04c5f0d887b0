"""The runs of the sharing bench, one after the other, each side a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airan.bench.sharing import report
from airan.bench.sharing.process import SideProcess
from airan.bench.sharing.report import RunResult
from airan.bench.sharing.side import SideOrder
from airan.bench.sharing.ways import DEFAULT_WAYS, Run, Setup, Way, by_setup, runs, way
from airan.core.errors import AiranError, CapacityError, InvalidInputError, UnavailableError
from orchestrator.drivers.mps import MpsDaemon, MpsShare, without_mps
from orchestrator.sm_board import Gear, SmBoard
from phy.gpu.bench_slots import TracedSlot

READY_S = {"slots": 120.0, "day": 120.0, "stand-in": 120.0, "vllm": 400.0}
_SETTLE_S = 1.0
_END_S = 60.0
_SLOT_S = 0.5e-3
WHOLE_SMS = 0xFFFF
"""More than a GPU has: its part is the GPU."""
AI = {
    "stand-in": "stand-in: decode steps of an 8B shape, binary16, no attention, no engine",
    "vllm": "vLLM, Llama-8B shape, bfloat16, random weights",
}
"""What the AI side is, by the name of its engine."""


@dataclass(frozen=True)
class SharingOptions:
    """What to measure.

    Attributes:
        ways: to share the GPU, by name.
        n_slots: of each run.
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
        check_step_tokens(self.step_tokens, self.batch, self.engine)
        if not 1 <= self.n_cells <= 40:
            raise InvalidInputError("cells", f"must lie in [1, 40], got {self.n_cells}")
        if self.n_slots < 100:
            raise InvalidInputError("slots", f"must be at least 100, got {self.n_slots}")
        if not 1 <= self.batch <= 1024:
            raise InvalidInputError("batch", f"must lie in [1, 1024], got {self.batch}")

    def chosen(self) -> list[Way]:
        """The ways by name, each once."""
        return [way(name) for name in dict.fromkeys(self.ways)]


def check_step_tokens(step_tokens: int | None, batch: int, engine: str) -> None:
    """Lets a cap on vLLM's steps through that leaves room for prompts.

    Raises:
        InvalidInputError: it does not, or there is no vLLM.
    """
    if step_tokens is None:
        return
    if engine != "vllm":
        raise InvalidInputError("step-tokens", "are vLLM's", remedy="add --engine vllm")
    if 2 * step_tokens < 3 * batch:
        raise InvalidInputError(
            "step-tokens",
            f"must be at least one and a half times the batch of {batch}, got {step_tokens}",
            remedy="each sequence takes a token a step, and prompts need some as well",
        )


@dataclass
class SharingReport:
    """What came of it.

    Attributes:
        device: the GPU as `airan.bench.gpu.GpuDevice` names it.
        started: when, ISO 8601.
        options: what was measured.
        ai: what the AI side is.
        results: in the order they were measured.
    """

    device: dict[str, Any]
    started: str
    options: SharingOptions
    ai: str = AI["stand-in"]
    results: list[RunResult] = field(default_factory=list)


@dataclass(frozen=True)
class Both:
    """What the two sides did in one run, on one clock (perf_counter, s).

    Attributes:
        slots: each of them; none if they did not run.
        ended_s, tokens: of each step of the AI.
        from_s, until_s: between which the AI is counted.
    """

    slots: list[TracedSlot]
    ended_s: list[float]
    tokens: list[int]
    from_s: float
    until_s: float


def measure(
    options: SharingOptions,
    on_run: Callable[[SharingReport, dict[str, Any] | None], None] = lambda _report, _series: None,
    on_progress: Callable[[str], None] = lambda _name: None,
) -> SharingReport:
    """Measures every way; one that fails is a row with an error, and the others go on.

    Args:
        options: what to measure.
        on_run: called after each run with the report so far and the run's series (none if it
            failed).
        on_progress: called with the name of each run before it.

    Raises:
        UnavailableError: no GPU.
    """
    with tempfile.TemporaryDirectory(prefix="airan-sharing-", dir="/tmp") as name:
        folder = Path(name)
        started = datetime.now(UTC).isoformat("T", "seconds")
        out = SharingReport(device(folder), started, options, AI[options.engine])

        def keep(run: Run, both: Both | AiranError) -> None:
            result, traced = RunResult(run.name, run.way.name, run.way.slots_limit), None
            if isinstance(both, Both):
                _summarise(result, run, both)
                traced = report.series(run, both.slots, both.ended_s)
            else:
                result.error = str(both)
            out.results.append(result)
            report.compare(out.results)
            on_run(out, traced)

        n_sms = int(out.device.get("n_sms") or WHOLE_SMS)
        for setup, ways in by_setup(options.chosen()).items():
            planned = [run for run in runs(setup, ways) if _fits(run, n_sms)]
            for run, both in _all(setup, planned, options, folder, on_progress):
                keep(run, both)
            for run in runs(setup, ways):
                if not _fits(run, n_sms):
                    keep(run, CapacityError(f"{run.way.name}: the GPU has {n_sms} SMs"))
    return out


def _fits(run: Run, n_sms: int) -> bool:
    gear = run.way.gear
    return gear is None or gear.ran_sms + gear.ai_sms <= n_sms


def device(folder: Path) -> dict[str, Any]:
    """The GPU, as a process of its own names it."""
    side = SideProcess(SideOrder("device"), without_mps(os.environ, folder), folder)
    try:
        return side.answer(_END_S)
    finally:
        side.close()


def _summarise(result: RunResult, run: Run, both: Both) -> None:
    result.channels = report.channel_results(both.slots)
    if run.has_ai:
        during = (both.from_s, both.until_s)
        result.tokens_per_s = report.tokens_per_s(both.ended_s, both.tokens, *during)
        result.step_ms = report.step_ms(both.ended_s, *during)


def _all(
    setup: Setup,
    planned: Sequence[Run],
    options: SharingOptions,
    folder: Path,
    on_progress: Callable[[str], None],
) -> Iterator[tuple[Run, Both | AiranError]]:
    """The runs of one setup; where its sides do not start, each gets the reason."""
    left = list(planned)
    while left:
        has_begun = False
        try:
            with ExitStack() as stack:
                sides = Sides(setup, [run.way.gear for run in planned], options, folder, stack)
                has_begun = True
                while left:
                    on_progress(left[0].name)
                    both = sides.run(left[0], options.n_slots)
                    yield left.pop(0), both
        except AiranError as error:
            yield left.pop(0), error
            # Sides that began start anew for the others; those that could not will not.
            while left and not has_begun:
                yield left.pop(0), error


class Sides:
    """Both sides of one setup, running.

    Attributes:
        slots, ai: the processes.
        board: where the AI's gear is ordered; None: it has none.
    """

    def __init__(
        self,
        setup: Setup,
        gears: Sequence[Gear | None],
        options: SharingOptions,
        folder: Path,
        stack: ExitStack,
    ) -> None:
        """Starts them; `stack` ends them.

        Raises:
            UnavailableError: one does not start.
        """
        wanted = {gear for gear in gears if gear is not None}
        # An AI that is alone, or not in a gear, has the whole GPU.
        self._gears = (Gear(1, WHOLE_SMS), *sorted(wanted, key=lambda one: one.ran_sms))
        self._ran_sms = (None, *sorted({gear.ran_sms for gear in wanted}))
        self.board = None
        if wanted:
            self.board = SmBoard.create(folder / "board", self._gears)
            self.board.acknowledge("ran", self.board.order(0).generation)
            stack.callback(self.board.close)
        both = stack.enter_context(environments(setup, folder))
        board = "" if self.board is None else str(self.board.path)
        load = (options.n_cells, options.is_average, self._ran_sms, board, 0)
        out = {}
        for name, side in (("ai", options.engine), ("slots", "slots")):
            order = SideOrder(side, *load, options.batch, options.step_tokens)
            out[name] = SideProcess(order, both[name], folder)
            stack.callback(out[name].close)
            # One after the other: vLLM measures the memory that is free while it starts.
            out[name].wait_ready(READY_S[side])
        self.slots, self.ai = out["slots"], out["ai"]

    def run(self, run: Run, n_slots: int) -> Both:
        """Does one run.

        Raises:
            UnavailableError: a side failed.
        """
        length_s, gear = n_slots * _SLOT_S, run.way.gear
        if run.has_ai:
            if self.board is not None:
                follow(self.board, 0 if gear is None else self._gears.index(gear))
            self.ai.tell({"goes": True})
            time.sleep(_SETTLE_S)
        from_s = time.perf_counter()
        slots: list[TracedSlot] = []
        if run.has_slots:
            at = 0 if gear is None else self._ran_sms.index(gear.ran_sms)
            self.slots.tell({"n_slots": n_slots, "gear": at})
            answer = self.slots.answer(20 * length_s + _END_S)
            slots = [TracedSlot(**one) for one in answer["slots"]]
        else:
            time.sleep(length_s)
        until_s = time.perf_counter()
        if slots:
            from_s, until_s = slots[0].due_s, slots[-1].due_s
        steps: dict[str, list[Any]] = {"ended_s": [], "tokens": []}
        if run.has_ai:
            self.ai.tell({"goes": False})
            steps = self.ai.answer(_END_S)
        return Both(slots, steps["ended_s"], steps["tokens"], from_s, until_s)


def follow(board: SmBoard, gear: int) -> None:
    """Orders a gear while no slots run, and waits until the AI is in it.

    Raises:
        UnavailableError: it does not follow.
    """
    generation = board.order(gear).generation
    board.acknowledge("ran", generation)
    until_s = time.monotonic() + _END_S
    while board.acknowledged("ai") != generation:
        if time.monotonic() > until_s:
            raise UnavailableError(f"the AI side does not change to {board.gears[gear]}")
        time.sleep(0.0005)


@contextmanager
def environments(setup: Setup, folder: Path) -> Iterator[Mapping[str, dict[str, str]]]:
    """Of both sides; an MPS daemon of our own runs meanwhile, if the setup needs one."""
    if not setup.is_mps:
        alone = without_mps(os.environ, folder)
        yield {"slots": alone, "ai": alone}
        return
    daemon = MpsDaemon(folder / "mps")
    daemon.start()
    try:
        yield {
            "slots": daemon.client(os.environ, MpsShare(setup.slots_percent)),
            "ai": daemon.client(os.environ, MpsShare(setup.ai_percent, is_lower=setup.slots_first)),
        }
    finally:
        daemon.stop()
