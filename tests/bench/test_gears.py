"""A day of gears, reckoned by the cost model."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from airan.bench.gear_day import GearDayOptions, play, rows
from airan.cli.main import app
from airan.core.errors import InvalidInputError

FAST = GearDayOptions(speed=10_000)


def test_one_gear_holds_all_day_and_its_shares_are_its_sms() -> None:
    day = play(GearDayOptions(speed=10_000, gears=("96+32",)))
    assert day.n_slots == 17_280
    # From the start, in which slots have all of the GPU, until the first hold has passed.
    assert day.gear_share["96+32"] > 0.99
    assert day.ai_busy == pytest.approx(day.gear_share["96+32"] * 32 / 132)
    assert day.held == pytest.approx(day.gear_share["96+32"] * 128 / 132 + day.gear_share["132+0"])


def test_the_fast_path_makes_none_late_and_stays_below_what_gears_can_reach() -> None:
    day = play(FAST)
    assert day.n_late == 0
    assert day.n_changes > 5
    assert sum(day.gear_share.values()) == pytest.approx(1.0)
    assert 0.05 < day.ran_busy < 0.3
    assert 0.5 < day.ran_busy + day.ai_busy < day.best_busy < day.held


def test_higher_limits_leave_the_engine_more() -> None:
    higher = play(GearDayOptions(speed=10_000, slot_limits=(0.92, 0.85, 0.75)))
    assert higher.ai_busy > play(FAST).ai_busy + 0.01
    assert higher.n_late == 0


def test_too_small_gears_make_slots_late_until_all_of_the_gpu_is_theirs() -> None:
    day = play(GearDayOptions(speed=10_000, gears=("16+116",)))
    # The feed-forward meets known slots; those of full cells are not short enough on 16 SMs.
    assert day.gear_share["132+0"] > 0.3
    assert day.n_late == 0


def test_rows_name_the_simulation() -> None:
    found = rows(FAST, play(FAST))
    assert all("simulated H200-141GB" in row.hardware for row in found)
    assert {"late", "busy, both sides", "in 96+32"} <= {row.name for row in found}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_cells": 0}, "cells"),
        ({"speed": 1.0}, "speed"),
        ({"product": "A100"}, "product"),
        ({"gears": ("8+124",)}, "n_sms"),
    ],
)
def test_a_day_that_cannot_be_reckoned_is_refused(changes, named) -> None:
    with pytest.raises(InvalidInputError, match=named):
        play(GearDayOptions(**{"speed": 10_000, **changes}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gear", "96+32", "--gear", "16+116"], "must ascend by Layer 1's SMs"),
        (["--gear", "95+32"], "must be a multiple of 8"),
        (["--slot-limits", "1,2"], "three parts"),
        (["--slot-limits", "0.6,0.7,0.8"], "must descend"),
        (["--slot-limits", "a,b,c"], "three parts"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments, said) -> None:
    error = CliRunner().invoke(app, ["bench", "gears", *arguments]).exception
    assert isinstance(error, InvalidInputError)
    assert said in f"{error} {error.remedy}"
