"""A day of RAN load in minutes, the AI on what the slots leave; and a thousand revocations.

The slots' side is the site's own loop with its fast path; the AI's side follows the board that the
fast path writes. Both are clients of one MPS daemon.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from airan.bench.sharing.board_watch import BoardWatch, Change
from airan.bench.sharing.process import SideProcess
from airan.bench.sharing.report import BUDGETS_US, tokens_per_s
from airan.bench.sharing.run import (
    AI,
    READY_S,
    WHOLE_SMS,
    check_step_tokens,
    device,
    environments,
    follow,
)
from airan.bench.sharing.side import SideOrder
from airan.bench.sharing.ways import Setup
from airan.core.errors import InvalidInputError
from airan.core.gpu_config import SLOT_LIMITS, GpuConfig
from orchestrator.sm_board import Gear, SmBoard
from phy.gpu.bench_slots import Times

GEARS = tuple(Gear(ran, ai) for ran, ai in GpuConfig().gears_of(WHOLE_SMS) if ai)
"""A site's own by default. Beside many loaded cells the AI gets less than they
leave: memory is shared, and fewer SMs ask less of it."""
_END_S = 120.0
_ALONE_S = 5.0
_SETTLE_S = 1.0
_PAUSE_S = (0.002, 0.02)
_WORK_S = (0.005, 0.03)


@dataclass(frozen=True)
class DayOptions:
    """What is played.

    Attributes:
        n_cells: cells, of the generated day's load.
        speed: times as fast as the clock.
        from_h, hours: of the day.
        n_pauses: revocations after it.
        gears: of both sides, ascending for the RAN.
        batch: sequences of the AI.
        engine: "stand-in" or "vllm".
        step_tokens: most tokens of one step of vLLM; None: its own.
        slot_limits: of the fast path, as `gpu.slot_limits`.

    Raises:
        InvalidInputError: out of range.
    """

    n_cells: int = 20
    speed: float = 1000.0
    from_h: float = 0.0
    hours: float = 24.0
    n_pauses: int = 1000
    gears: tuple[Gear, ...] = GEARS
    batch: int = 128
    engine: str = "stand-in"
    step_tokens: int | None = None
    slot_limits: tuple[float, float, float] = SLOT_LIMITS

    def __post_init__(self) -> None:
        if self.engine not in AI:
            raise InvalidInputError("engine", f"must be {' or '.join(AI)}, got {self.engine!r}")
        if not 1 <= self.n_cells <= 40:
            raise InvalidInputError("cells", f"must lie in [1, 40], got {self.n_cells}")
        if not 1 <= self.speed <= 10_000:
            raise InvalidInputError("day", f"its speed must lie in [1, 10000], got {self.speed:g}")
        if not (0 <= self.from_h < 24 and 0 < self.hours <= 24):
            raise InvalidInputError("hours", "must begin within the day and be at most 24")
        check_step_tokens(self.step_tokens, self.batch, self.engine)
        if not 1 <= self.batch <= 1024:
            raise InvalidInputError("batch", f"must lie in [1, 1024], got {self.batch}")
        if not 0 <= self.n_pauses <= 100_000:
            raise InvalidInputError("pauses", f"must lie in [0, 100000], got {self.n_pauses}")


@dataclass(frozen=True)
class Followed:
    """How soon orders were followed, ms.

    Attributes:
        n: orders that were followed before the next one came, and how many there were.
        p50_ms, p99_ms, max_ms: of those; None without any.
    """

    n: int
    of: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of_changes(cls, changes: Sequence[Change], side: str) -> Followed:
        """Summarises."""
        took = [ms for change in changes if (ms := change.took_ms(side)) is not None]
        if not took:
            return cls(0, len(changes))
        p50, p99 = np.percentile(took, (50, 99), method="higher").tolist()
        return cls(len(took), len(changes), p50, p99, max(took))


@dataclass(frozen=True)
class DaySlots:
    """Slots of one direction.

    Attributes:
        channel: "pusch" or "pdsch".
        slots: with anything in them, or not begun in time.
        dropped: found all buffers busy, or were not begun in time.
        late: of the rest, those whose kernels took longer than the budget.
        kernels: on the GPU.
        latency: from when they were due to their results on the host.
    """

    channel: str
    slots: int
    dropped: int
    late: int
    kernels: Times
    latency: Times


@dataclass
class DayReport:
    """What came of it.

    Attributes:
        device, started, options, ai: as in `SharingReport`.
        length_s: of the day, by the clock.
        slots: by direction.
        gear_share: of the time, by gear.
        n_changes: of gear.
        up, down: how soon the AI followed orders that took from it, or gave it.
        up_slots: how soon the slots followed those.
        reasons: why the gear changed, the first ones.
        alone_tokens_per_s: of the AI on the whole GPU, before.
        tokens_per_s: of the AI during the day.
        held_share: of SM time, what the gears gave to one side or the other.
        ran_busy_share, ai_busy_share: of SM time, what had slots' kernels, or a step, on it.
        pauses: how soon the AI had stopped when it was told to, from gears drawn at random.
        pause_tokens: made meanwhile, between the pauses.
        requests_ended, requests_wrong: of the AI in the day; those with more or fewer tokens than
            they asked for.
        pause_requests_ended, pause_requests_wrong: the same between the pauses.
    """

    device: dict[str, Any]
    started: str
    options: DayOptions
    ai: str
    length_s: float = 0.0
    slots: list[DaySlots] = field(default_factory=list)
    gear_share: dict[str, float] = field(default_factory=dict)
    n_changes: int = 0
    up: Followed = Followed(0, 0)
    down: Followed = Followed(0, 0)
    up_slots: Followed = Followed(0, 0)
    reasons: list[tuple[float, str, str]] = field(default_factory=list)
    alone_tokens_per_s: float = 0.0
    tokens_per_s: float = 0.0
    held_share: float = 0.0
    ran_busy_share: float = 0.0
    ai_busy_share: float = 0.0
    pauses: Followed = Followed(0, 0)
    pause_tokens: int = 0
    requests_ended: int = 0
    requests_wrong: int = 0
    pause_requests_ended: int = 0
    pause_requests_wrong: int = 0


def measure_day(
    options: DayOptions,
    on_part: Callable[[DayReport, dict[str, Any]], None] = lambda _report, _series: None,
    on_progress: Callable[[str], None] = lambda _name: None,
) -> DayReport:
    """Plays the day and the pauses.

    Args:
        options: what is played.
        on_part: called after the day, and after the pauses, with what was seen.
        on_progress: called with what comes next.

    Raises:
        UnavailableError: no GPU, no MPS, or a side fails.
    """
    with tempfile.TemporaryDirectory(prefix="airan-day-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        started = datetime.now(UTC).isoformat("T", "seconds")
        out = DayReport(device(folder), started, options, AI[options.engine])
        on_progress("both sides start")
        sides = _Sides(options, folder, stack)
        on_progress("the AI alone")
        with sides.ai_steps() as steps:
            sides.order(sides.whole)
            time.sleep(_SETTLE_S)
            from_s = time.perf_counter()
            time.sleep(_ALONE_S)
        out.alone_tokens_per_s = _rate(steps, from_s, from_s + _ALONE_S)
        on_progress("the day")
        _day(sides, options, out, on_part)
        if options.n_pauses:
            on_progress("pauses")
            _pauses(sides, options, out)
            on_part(out, {})
    return out


class _Sides:
    """Both sides, on a board with the options' gears, a pause, and the whole GPU for the AI."""

    def __init__(self, options: DayOptions, folder: Path, stack: ExitStack) -> None:
        n = len(options.gears)
        self.paused, self.whole = n, n + 1
        last = options.gears[-1]
        gears = (*options.gears, Gear(last.ran_sms, 0), Gear(1, WHOLE_SMS))
        self.board = SmBoard.create(folder / "board", gears)
        stack.callback(self.board.close)
        both = stack.enter_context(environments(Setup(is_mps=True), folder))
        out = {}
        for name, side in (("ai", options.engine), ("slots", "day")):
            order = SideOrder(
                side,
                options.n_cells,
                board=str(self.board.path),
                n_gears=n,
                batch=options.batch,
                step_tokens=options.step_tokens,
                slot_limits=options.slot_limits,
            )
            out[name] = SideProcess(order, both[name], folder)
            stack.callback(out[name].close)
            # The AI first: the slots begin by taking as much as they may from it.
            out[name].wait_ready(READY_S[side])
        self.slots, self.ai = out["slots"], out["ai"]

    def order(self, gear: int) -> None:
        """Orders a gear while no slots run, and waits for the AI."""
        follow(self.board, gear)

    @contextmanager
    def ai_steps(self) -> Iterator[dict[str, Any]]:
        """The AI works meanwhile; what it did is there at the end."""
        steps: dict[str, Any] = {}
        self.ai.tell({"goes": True})
        yield steps
        self.ai.tell({"goes": False})
        # A pause would keep it in its step.
        if self.board.gears[self.board.current.gear].ai_sms == 0:
            self.order(0)
        steps |= self.ai.answer(_END_S)


def _day(
    sides: _Sides,
    options: DayOptions,
    out: DayReport,
    on_part: Callable[[DayReport, dict[str, Any]], None],
) -> None:
    day = {"speed": options.speed, "from_h": options.from_h, "hours": options.hours}
    length_s = 3600 * options.hours / options.speed
    begun_s = time.monotonic()
    with sides.ai_steps() as steps, BoardWatch(sides.board) as watch:
        sides.slots.tell(day)
        answer = sides.slots.answer(2 * length_s + _END_S)
    from_s, until_s = answer["during"]
    out.length_s = length_s = until_s - from_s
    _summarise_slots(answer["slots"], options.gears, out)
    _summarise_watch(watch, options.gears, out)
    out.reasons = [
        (round(at_s - begun_s, 4), str(options.gears[gear]), why)
        for at_s, gear, why in answer["changes"][:200]
    ]
    out.tokens_per_s = _rate(steps, from_s, until_s)
    out.requests_ended += steps.get("n_ended", 0)
    out.requests_wrong += steps.get("n_wrong", 0)
    on_part(out, {"slots": answer["slots"], "changes": [asdict(one) for one in watch.changes]})


def _pauses(sides: _Sides, options: DayOptions, out: DayReport) -> None:
    draw = random.Random(1)
    with sides.ai_steps() as steps, BoardWatch(sides.board) as watch:
        for _ in range(options.n_pauses):
            sides.order(draw.randrange(len(options.gears)))
            time.sleep(draw.uniform(*_WORK_S))
            sides.order(sides.paused)
            time.sleep(draw.uniform(*_PAUSE_S))
    paused = [change for change in watch.changes if change.after == sides.paused]
    out.pauses = Followed.of_changes(paused, "ai")
    out.pause_tokens = sum(steps["tokens"])
    out.pause_requests_ended = steps.get("n_ended", 0)
    out.pause_requests_wrong = steps.get("n_wrong", 0)


def _summarise_slots(rows: Sequence[Sequence[Any]], gears: Sequence[Gear], out: DayReport) -> None:
    """Rows of (time, channel, gear, cells, kernels, with copies, latency), us or None."""
    n_sms, busy_us = float(out.device.get("n_sms") or 0), 0.0
    out.slots = []
    for channel, budget_us in BUDGETS_US.items():
        own = [row for row in rows if row[1] == channel and row[3] != 0]
        done = [row for row in own if row[4] is not None]
        if done:
            late = sum(row[4] > budget_us for row in done)
            kernels, latency = Times.of([r[4] for r in done]), Times.of([r[6] for r in done])
            dropped = len(own) - len(done)
            out.slots.append(DaySlots(channel, len(own), dropped, late, kernels, latency))
        busy_us += sum(row[4] * gears[row[2]].ran_sms for row in done if row[2] >= 0)
    if n_sms:
        out.ran_busy_share = busy_us / 1e6 / (n_sms * out.length_s)


def _summarise_watch(watch: BoardWatch, gears: Sequence[Gear], out: DayReport) -> None:
    n_sms, whole_s = float(out.device.get("n_sms") or 0), sum(watch.gear_s)
    out.gear_share = {
        str(gear): seconds / whole_s for gear, seconds in zip(gears, watch.gear_s, strict=False)
    }
    out.n_changes = len(watch.changes)
    within = [one for one in watch.changes if max(one.before, one.after) < len(gears)]
    up = [one for one in within if one.after > one.before]
    out.up, out.up_slots = Followed.of_changes(up, "ai"), Followed.of_changes(up, "ran")
    out.down = Followed.of_changes([one for one in within if one.after < one.before], "ai")
    if not n_sms:
        return
    each = list(zip(gears, watch.gear_s, watch.step_s, strict=False))
    out.held_share = sum((g.ran_sms + g.ai_sms) * s for g, s, _ in each) / (n_sms * whole_s)
    out.ai_busy_share = sum(g.ai_sms * s for g, _, s in each) / (n_sms * whole_s)


def _rate(steps: dict[str, Any], from_s: float, until_s: float) -> float:
    return tokens_per_s(steps["ended_s"], steps["tokens"], from_s, until_s)
