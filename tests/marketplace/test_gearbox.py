"""An engine in gears, without an engine: orders, steps, pauses, and what is acknowledged when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from marketplace.engines import gearbox
from marketplace.engines.gearbox import Gearbox
from orchestrator.sm_board import NO_ORDER, Gear, GearOrder, SmBoard
from tests import waiting

GEARS = (Gear(16, 116), Gear(64, 68), Gear(96, 36), Gear(96, 0))
PAUSED = 3


class ScriptedShifter:
    """Writes down what it is told; the GPU has done its work when the test says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gear = -1
        self.is_done = threading.Event()
        self.is_done.set()

    def shift(self, gear: int) -> None:
        self.gear = gear
        self.calls.append(f"shift {gear}")

    def enter(self) -> None:
        self.calls.append(f"enter {self.gear}")

    def settle(self) -> None:
        assert self.is_done.wait(10)


class Bench:
    def __init__(self, path: Path) -> None:
        self.board = SmBoard.create(path, GEARS)
        self.shifter = ScriptedShifter()
        self.gearbox = Gearbox(self.board, self.shifter)

    def order(self, gear: int, step_tokens: int = 0) -> int:
        """The slots leave what they have to at once."""
        order = self.board.order(gear, step_tokens)
        self.board.acknowledge("ran", order.generation)
        return order.generation

    def budget(self) -> int:
        with self.gearbox.scheduling(2048) as tokens:
            return tokens

    def step(self, tokens: int = 128) -> None:
        with self.gearbox.scheduling(2048) as allowed:
            assert allowed
            self.gearbox.scheduled()
        self.gearbox.begin_step(tokens)
        self.gearbox.end_step()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "board")
    yield bench
    bench.gearbox.close()


until = partial(waiting.until, within_s=10.0)


def test_a_step_runs_in_the_gear_that_is_ordered_when_it_begins(bench: Bench) -> None:
    for gear in (0, 2, 1):
        bench.order(gear)
        bench.step()
    assert bench.shifter.calls == [
        *("shift 0", "enter 0"),
        *("shift 2", "enter 2"),
        *("shift 1", "enter 1"),
    ]


def test_a_step_keeps_to_the_tokens_ordered_and_never_has_more_than_the_engines_own(
    bench: Bench,
) -> None:
    bench.order(1, 256)
    assert bench.budget() == 256
    bench.order(1, 4096)
    assert bench.budget() == 2048
    bench.order(1)
    assert bench.budget() == 2048


def test_leaving_a_gear_is_acknowledged_when_the_gpu_has_left_it_though_no_step_comes(
    bench: Bench,
) -> None:
    bench.gearbox.start()
    first = bench.order(0)
    until(lambda: bench.board.acknowledged("ai") == first)
    bench.shifter.is_done.clear()
    second = bench.order(2)
    until(lambda: bench.shifter.gear == 2)
    time.sleep(0.01)
    assert bench.board.acknowledged("ai") == first
    bench.shifter.is_done.set()
    until(lambda: bench.board.acknowledged("ai") == second)
    bench.gearbox.close()
    assert bench.board.acknowledged("ai") == NO_ORDER


def test_an_engine_grows_only_into_what_the_slots_have_left(bench: Bench) -> None:
    bench.order(2)
    bench.step()
    order = bench.board.order(0)
    bench.step()
    assert bench.shifter.gear == 2
    bench.board.acknowledge("ran", order.generation)
    bench.step()
    assert bench.shifter.gear == 0


def test_an_engine_gives_way_without_waiting_for_the_slots(bench: Bench) -> None:
    bench.order(0)
    bench.step()
    bench.board.order(2)
    bench.step()
    assert bench.shifter.gear == 2


def test_a_gear_without_the_ai_has_no_steps_but_the_one_that_was_put_together(
    bench: Bench,
) -> None:
    bench.order(1)
    bench.step()
    bench.gearbox.start()
    with bench.gearbox.scheduling(2048):
        bench.gearbox.scheduled()
    paused = bench.order(PAUSED)
    time.sleep(0.01)
    assert bench.board.acknowledged("ai") != paused
    bench.gearbox.begin_step(128)
    assert bench.shifter.gear == 1
    bench.gearbox.end_step()
    until(lambda: bench.board.acknowledged("ai") == paused)
    assert bench.budget() == 0
    bench.order(0)
    bench.step()
    assert bench.shifter.calls[-1] == "enter 0"


def test_a_step_that_has_begun_ends_where_it_began(bench: Bench) -> None:
    bench.gearbox.start()
    first = bench.order(1)
    until(lambda: bench.board.acknowledged("ai") == first)
    with bench.gearbox.scheduling(2048):
        bench.gearbox.scheduled()
    bench.gearbox.begin_step(128)
    second = bench.order(2)
    time.sleep(0.01)
    assert (bench.shifter.gear, bench.board.acknowledged("ai")) == (1, first)
    bench.gearbox.end_step()
    until(lambda: bench.board.acknowledged("ai") == second)


class ChangingBoard:
    """A board on which a pause is ordered just after somebody has looked."""

    def __init__(self, board: SmBoard) -> None:
        self.board = board

    def __getattr__(self, name: str) -> object:
        return getattr(self.board, name)

    @property
    def current(self) -> GearOrder:
        seen = self.board.current
        order = self.board.order(PAUSED)
        self.board.acknowledge("ran", order.generation)
        return seen


def test_a_pause_that_is_ordered_while_a_step_begins_is_not_taken_by_it(bench: Bench) -> None:
    bench.order(1)
    bench.step()
    bench.order(2)
    with bench.gearbox.scheduling(2048):
        bench.gearbox.scheduled()
    bench.gearbox.board = ChangingBoard(bench.board)
    assert bench.gearbox.begin_step(128) == 2
    assert bench.shifter.calls[-1] == "enter 2"


def test_a_watcher_that_fails_ends_the_engine(bench: Bench, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(gearbox.os, "_exit", ended.append)

    def shift(_gear: int) -> None:
        raise RuntimeError("the driver refuses")

    monkeypatch.setattr(bench.shifter, "shift", shift)
    bench.gearbox.start()
    bench.order(0)
    until(lambda: ended == [70])
