"""A day on a shared GPU, its processes with simulated sides; what is seen on a board."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from airan.bench.sharing.board_watch import BoardWatch, Change
from airan.bench.sharing.day import DayOptions, Followed, measure_day
from airan.core.errors import InvalidInputError
from orchestrator.sm_board import Gear, SmBoard
from tests import waiting

GEARS = (Gear(16, 116), Gear(64, 68))


until = partial(waiting.until, within_s=30.0)


def test_a_board_is_watched(tmp_path) -> None:
    board = SmBoard.create(tmp_path / "board", GEARS)
    begun_s = time.monotonic()
    with BoardWatch(board) as watch:
        watching_s = time.monotonic()
        order = board.order(0)
        time.sleep(0.02)
        board.acknowledge("ran", order.generation)
        time.sleep(0.02)
        board.acknowledge("ai", order.generation)
        until(lambda: watch.changes and "ai" in watch.changes[0].followed_ns)
        board.beat(8000, 128, 0)
        until(lambda: any(watch.step_s))
        board.order(0, 512)  # the same gear
        ordered_s = time.monotonic()
        board.order(1)
        until(lambda: len(watch.changes) == 2)
    ended_s = time.monotonic()
    assert [(one.before, one.after) for one in watch.changes] == [(1, 0), (0, 1)]
    first, second = watch.changes
    assert 15 < first.took_ms("ran") < first.took_ms("ai")
    assert second.took_ms("ai") is None
    assert ordered_s - watching_s <= sum(watch.gear_s) <= ended_s - begun_s
    assert min(watch.gear_s) > 0.0
    assert watch.step_s == [0.008, 0]


def test_how_soon_orders_are_followed_leaves_out_those_that_were_overtaken() -> None:
    changes = [Change(0, 0, 1, {"ai": 5_000_000}), Change(0, 1, 0), Change(0, 0, 1, {"ai": 10**6})]
    assert Followed.of_changes(changes, "ai") == Followed(2, 3, 5.0, 5.0, 5.0)
    assert Followed.of_changes([], "ai") == Followed(0, 0)


def test_a_whole_day_with_simulated_sides(simulated_sides) -> None:
    # As long as a machine that stands still for a moment needs to come out even.
    options = DayOptions(speed=10_000, hours=6, n_pauses=5, gears=GEARS)
    parts = []
    report = measure_day(options, lambda so_far, series: parts.append(series))
    assert report.alone_tokens_per_s == pytest.approx(12_800, rel=0.2)
    pdsch = next(one for one in report.slots if one.channel == "pdsch")
    assert (pdsch.dropped, pdsch.late) == (1, 1)
    assert report.n_changes > 5
    assert report.up.n + report.down.n > 5
    assert report.gear_share["16+116"] == pytest.approx(0.5, abs=0.2)
    assert report.held_share == pytest.approx(1.0, abs=0.1)
    # 100 us of kernels in half a millisecond, on 16 and on 64 SMs of 132.
    assert 0.02 < report.ran_busy_share < 0.12
    assert (report.pauses.n, report.pauses.of) == (5, 5)
    assert (report.requests_ended, report.requests_wrong) == (5, 0)
    assert (report.pause_requests_ended, report.pause_requests_wrong) == (5, 0)
    assert report.reasons[0][1:] == ("16+116", "a simulated reason")
    assert len(parts) == 2
    assert json.loads(json.dumps(parts[0]))["slots"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"engine": "nosuch"}, "engine"),
        ({"n_cells": 0}, "cells"),
        ({"speed": 0.5}, "day"),
        ({"hours": 25}, "hours"),
        ({"n_pauses": -1}, "pauses"),
    ],
)
def test_a_day_that_makes_no_sense_is_refused(options, named) -> None:
    with pytest.raises(InvalidInputError, match=named):
        DayOptions(**options)
