"""An engine in gears: which part of the GPU its next step runs on, and when it has left the last.

The order comes from a board that the fast path writes (orchestrator.sm_board). A step that has
begun ends where it began; the next one runs in the gear that is ordered by then. An engine grows
into what the slots had only when these say that they have left it. That the engine has left a gear
is acknowledged when the GPU has done what was queued there, also when no step comes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from orchestrator.sm_board import NO_ORDER, GearOrder, SmBoard

log = logging.getLogger(__name__)

BOARD_VARIABLE = "AIRAN_SM_BOARD"
"""Names the board to an engine that changes gear."""
_LOOK_S = 0.001
_EXIT_CODE = 70


class Shifter(Protocol):
    """What changes the part of the GPU that steps run on."""

    def shift(self, gear: int) -> None:
        """Has the steps that begin from now on run in that gear, after those before; from any
        thread, between two steps."""
        ...

    def enter(self) -> None:
        """Makes that gear the one of the calling thread, which is the engine's."""
        ...

    def settle(self) -> None:
        """Waits until the GPU has done what was queued before the last `shift`."""
        ...


class Gearbox:
    """Follows a board's orders for one engine."""

    def __init__(self, board: SmBoard, shifter: Shifter) -> None:
        """`shifter` is in no gear yet. Call `start` to follow orders while no step comes."""
        self.board = board
        self._shifter = shifter
        self._lock = threading.Lock()
        self._taken = GearOrder(0, -1, 0)
        self._running = 0
        self._acknowledged = 0
        self._n_scheduled = 0
        self._in_step = False
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gearbox", daemon=True)

    def start(self) -> None:
        """Begins to follow."""
        self._watcher.start()

    def close(self) -> None:
        """Ends the watching, and says so; what is ordered from now on is not followed."""
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()
            self.board.acknowledge("ai", NO_ORDER)

    @contextmanager
    def scheduling(self, own_tokens: int) -> Iterator[int]:
        """Meanwhile no order is followed; gives the most tokens that a step may have now.

        Args:
            own_tokens: the most that the engine itself wants.
        """
        with self._lock:
            self._follow(self.board.current)
            gear = self.board.gears[self._taken.gear]
            if gear.ai_sms == 0:
                yield 0
            else:
                yield min(self._taken.step_tokens or own_tokens, own_tokens)

    def scheduled(self) -> None:
        """A step with tokens was put together; call it within `scheduling`."""
        self._n_scheduled += 1

    def begin_step(self, tokens: int) -> int:
        """A step begins, in the engine's thread; the gear that it runs in."""
        with self._lock:
            order = self.board.current
            if self._n_scheduled == 0 or self._is_running(order):
                self._follow(order)
            self._in_step = True
            if tokens:
                self._n_scheduled = max(0, self._n_scheduled - 1)
            self._shifter.enter()
            return self._running

    def end_step(self) -> None:
        """All work of the step is queued."""
        self._in_step = False

    @contextmanager
    def step(self) -> Iterator[bool]:
        """A whole step, for an engine without a scheduler; says whether there is one now."""
        with self.scheduling(1) as tokens:
            if tokens:
                self.scheduled()
        if not tokens:
            yield False
            return
        self.begin_step(tokens)
        try:
            yield True
        finally:
            self.end_step()

    def _is_running(self, order: GearOrder) -> bool:
        return self.board.gears[order.gear].ai_sms > 0

    def _follow(self, order: GearOrder) -> None:
        """Takes an order that was read just now, unless it has to wait. The lock is held."""
        if order.generation == self._taken.generation:
            return
        if self._taken.gear >= 0:
            now, then = self.board.gears[self._taken.gear], self.board.gears[order.gear]
            has_to_wait = then.ai_sms > now.ai_sms or then.ran_sms < now.ran_sms
            if has_to_wait and self.board.acknowledged("ran") != order.generation:
                return
        if order.gear != self._taken.gear:
            self._shifter.shift(order.gear)
        if self._is_running(order):
            # In a pause a step, should one come, stays where the last one was.
            self._running = order.gear
        self._taken = order

    def _watch(self) -> None:
        try:
            self._watch_orders()
        except BaseException:
            # Orders that nobody follows would leave the slots without what they were given.
            log.critical("orders are not followed any more: the engine ends", exc_info=True)
            os._exit(_EXIT_CODE)

    def _watch_orders(self) -> None:
        while not self._ended.wait(_LOOK_S):
            with self._lock:
                order = self.board.current
                is_paused = not self._is_running(order)
                # A step that is put together already still belongs to the gear before a pause.
                if not self._in_step and not (is_paused and self._n_scheduled):
                    self._follow(order)
                generation = self._taken.generation
            if generation != self._acknowledged:
                self._shifter.settle()
                self.board.acknowledge("ai", generation)
                self._acknowledged = generation
