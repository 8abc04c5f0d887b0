"""What happens on a board while both sides run: orders, how soon they are followed, AI steps."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from orchestrator.sm_board import GearOrder, SmBoard

_LOOK_S = 0.0002


@dataclass
class Change:
    """One change of gear.

    Attributes:
        ordered_ns: when it was ordered, on the host's monotonic clock.
        before, after: the gears.
        followed_ns: when each side, "ran" and "ai", said that it had left the former gear; missing
            if the next order came sooner.
    """

    ordered_ns: int
    before: int
    after: int
    followed_ns: dict[str, int] = field(default_factory=dict)

    def took_ms(self, side: str) -> float | None:
        """How long a side took to follow."""
        followed_ns = self.followed_ns.get(side)
        return None if followed_ns is None else max(0.0, (followed_ns - self.ordered_ns) / 1e6)


class BoardWatch:
    """Looks at a board five times a millisecond, in a thread of its own.

    Attributes:
        changes: of gear.
        gear_s: seconds in each gear.
        step_s: seconds of the AI's steps on the GPU, by gear.
    """

    def __init__(self, board: SmBoard) -> None:
        self.changes: list[Change] = []
        self.gear_s = [0.0] * len(board.gears)
        self.step_s = [0.0] * len(board.gears)
        self._board = board
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> BoardWatch:
        """Looks a first time, and goes on looking: what is ordered from now on is seen, however
        long the thread takes to start."""
        first = (self._board.current, self._board.last_beat.n_steps, time.monotonic())
        self._thread = threading.Thread(target=self._watch, args=first, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Looks a last time and ends."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, order: GearOrder, n_steps: int, then_s: float) -> None:
        board = self._board
        while not self._ended.wait(_LOOK_S):
            now, now_s = board.current, time.monotonic()
            self.gear_s[order.gear] += now_s - then_s
            then_s = now_s
            if now.generation != order.generation:
                if now.gear != order.gear:
                    self.changes.append(Change(board.ordered_ns, order.gear, now.gear))
                order = now
            self._note_followed(order.generation)
            beat = board.last_beat
            if beat.n_steps != n_steps:
                n_steps = beat.n_steps
                self.step_s[beat.gear] += beat.step_us / 1e6

    def _note_followed(self, generation: int) -> None:
        if not self.changes:
            return
        last = self.changes[-1]
        for side in ("ran", "ai"):
            # Later orders for the same gear are followed at once, and their time is not this one's.
            if side not in last.followed_ns and self._board.acknowledged(side) == generation:
                last.followed_ns[side] = self._board.acknowledged_ns(side)
