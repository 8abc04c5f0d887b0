"""The fast path: known answers, what holds for any input, and a loop closed by a simulated GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from orchestrator.fast_path import FastPath, FastPathSettings, SlotExpected, SlotSeen
from orchestrator.gear_times import ALONE, BESIDE_A_MODEL, GearTimes
from orchestrator.step_budget import StepBudget, StepLimits
from tests.orchestrator.simulated_gpu import SLOT_S, SimulatedGpu

GEARS = (16, 32, 64, 96, 132)
SETTINGS = FastPathSettings(GEARS, 132)
TOP = len(GEARS) - 1


def seen(
    time_s: float, part: float, gear: int, channel: str = "pusch", *, lost: bool | None = None
) -> SlotSeen:
    """A slot that took `part` of its budget; NaN: dropped."""
    is_lost = not part <= 1.0 if lost is None else lost
    return SlotSeen(time_s, channel, part * 1250.0, 1250.0, gear, is_lost)


def lowered(to: int, part: float = 0.01) -> tuple[FastPath, float]:
    """A controller that has come down to a gear, and the time then."""
    path, now_s = FastPath(SETTINGS), 0.0
    while path.gear > to:
        now_s += SLOT_S
        path.see(seen(now_s, part, path.gear))
    return path, now_s


# --- known answers


def test_the_ran_has_everything_until_slots_were_seen() -> None:
    order = FastPath(SETTINGS).order(0.0)
    assert (order.gear, order.step_tokens, order.alarm) == (TOP, 0, False)


def test_short_slots_give_the_engine_one_gear_after_every_hold() -> None:
    path = FastPath(SETTINGS)
    taken: list[tuple[int, int]] = []
    for slot in range(500):
        path.see(seen(slot * SLOT_S, 0.01, path.gear))
        if not taken or taken[-1][1] != path.gear:
            taken.append((slot, path.gear))
    hold = round(SETTINGS.hold_s / SLOT_S)
    assert [gear for _, gear in taken] == [4, 3, 2, 1, 0]
    # Times are sums of halves of milliseconds, which are not exact.
    assert [slot for slot, _ in taken] == pytest.approx([n * hold for n in range(5)], abs=1)


def test_a_late_slot_moves_straight_to_the_smallest_gear_that_is_expected_to_do() -> None:
    path, now_s = lowered(0)
    # Twice the SMs gain 1.41 at least: 2.0 of the budget is 1.41 in gear 1, 1.0 in 2, 0.82 in 3.
    assert path.see(seen(now_s, 2.0, 0)).gear == 4
    path, now_s = lowered(0)
    # 1.2: 0.85 in gear 1, and 0.6 in 2, which is below what is aimed at.
    order = path.see(seen(now_s, 1.2, 0))
    assert (order.gear, order.alarm) == (2, True)
    assert "took 1500 us of 1250 us" in path.reason


def test_a_slot_near_its_budget_moves_up_before_any_is_late() -> None:
    path, now_s = lowered(1)
    order = path.see(seen(now_s, 0.86, 1))
    assert (order.gear, order.alarm) == (2, False)


def test_a_dropped_slot_moves_to_the_top() -> None:
    path, now_s = lowered(0)
    assert path.see(seen(now_s, math.nan, 0)).gear == TOP


def test_a_slot_that_was_under_way_in_a_lower_gear_says_nothing_against_the_new_one() -> None:
    path, now_s = lowered(0)
    assert path.see(seen(now_s, 1.2, 0)).gear == 2
    assert path.see(seen(now_s + SLOT_S, 1.2, 0)).gear == 2
    assert path.see(seen(now_s + 2 * SLOT_S, 1.2, 2)).gear > 2


def test_a_gear_is_kept_in_which_the_lower_one_would_be_too_tight() -> None:
    path = FastPath(SETTINGS)
    # 0.35 of the budget on 132 SMs is 0.66 on 96, if time grows with the square.
    for slot in range(4000):
        path.see(seen(slot * SLOT_S, 0.35, path.gear))
    assert path.gear == TOP


def test_the_hold_doubles_when_the_gear_has_to_go_up_again_soon() -> None:
    path, now_s = lowered(TOP - 1)
    went_down = []
    for _ in range(4):
        path.see(seen(now_s, 1.5, path.gear))
        started_s, top = now_s, path.gear
        while path.gear == top:
            now_s += SLOT_S
            path.see(seen(now_s, 0.01, path.gear))
        went_down.append(round((now_s - started_s) / SETTINGS.hold_s))
    assert went_down == [2, 4, 8, 16]


def test_the_plans_bounds_hold_at_once() -> None:
    path, now_s = lowered(0)
    assert path.bound(2, 3, now_s).gear == 2
    assert path.see(seen(now_s, math.nan, 2)).gear == 3
    for slot in range(2000):
        path.see(seen(now_s + slot * SLOT_S, 0.01, path.gear))
    assert path.gear == 2
    with pytest.raises(InvalidInputError, match="bounds"):
        path.bound(3, 5, now_s)


def test_a_load_step_that_is_expected_is_met_before_its_first_slot() -> None:
    path, now_s = lowered(0)
    coming = SlotExpected("pusch", 1250.0, (4000.0, 2000.0, 1000.0, 700.0, 500.0))
    assert path.expect([coming], now_s).gear == 3
    for slot in range(1000):
        path.expect([coming], now_s + slot * SLOT_S)
        path.see(seen(now_s + slot * SLOT_S, 0.1, 3))
    assert path.gear == 3


def test_what_is_expected_is_corrected_by_what_was_seen() -> None:
    path, now_s = lowered(0)
    model_us = (400.0, 320.0, 240.0, 200.0, 160.0)
    coming = SlotExpected("pusch", 1250.0, (600.0, 500.0, 400.0, 300.0, 200.0))
    # What a short slot takes beyond the model says nothing of a long one.
    path.see(SlotSeen(now_s, "pusch", 200.0, 1250.0, 0, us_by_gear=(100.0, 80.0, 60.0, 50.0, 40.0)))
    assert path.expect([coming], now_s).gear == 0
    # Long ones take twice what it says.
    for _ in range(10):
        path.see(SlotSeen(now_s, "pusch", 800.0, 1250.0, 0, us_by_gear=model_us))
    assert path.expect([coming], now_s).gear == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"gears": ()},
        {"gears": (32, 16)},
        {"gears": (0, 16)},
        {"gears": (16, 140)},
        {"lower_fraction": 0.8},
        {"raise_fraction": 1.1},
        {"hold_s": 0.0},
        {"hold_s": 9.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        FastPathSettings(**{"gears": GEARS, "total_sms": 132, **changes})


# --- what a gear gains


def test_both_answers_are_cautious_until_something_was_seen() -> None:
    times = GearTimes((32, 64), ALONE)
    assert times.ratio(0, 1) == pytest.approx(2**-ALONE.gain)
    assert times.ratio(1, 0) == pytest.approx(2**ALONE.loss)
    assert times.ratio(1, 1) == 1.0


@given(power=st.floats(0.0, 2.999), start=st.integers(0, 3), n=st.integers(1, 20))
def test_what_was_seen_draws_both_answers_to_it(power: float, start: int, n: int) -> None:
    times, gained = GearTimes(GEARS, ALONE), GEARS[start + 1] / GEARS[start]
    before = times.ratio(start, start + 1), times.ratio(start + 1, start)
    for _ in range(n):
        times.learn(start, 1000.0, start + 1, 1000.0 / gained**power)
    truth = gained**-power, gained**power
    for learnt, assumed, true in zip(
        (times.ratio(start, start + 1), times.ratio(start + 1, start)), before, truth, strict=True
    ):
        assert abs(math.log(learnt / true)) <= 0.5**n * abs(math.log(assumed / true)) + 1e-9


def test_a_change_of_load_teaches_nothing() -> None:
    for powers in (ALONE, BESIDE_A_MODEL):
        times = GearTimes((32, 64), powers)
        before = times.ratio(0, 1), times.ratio(1, 0)
        times.learn(0, 100.0, 1, 1000.0)
        times.learn(0, 1000.0, 1, 1.0)
        times.learn(0, 0.0, 1, 1.0)
        assert (times.ratio(0, 1), times.ratio(1, 0)) == before


def test_a_slot_that_the_model_says_is_hardly_longer_there_lets_the_gear_down() -> None:
    flat = (77.0, 67.0, 62.0, 60.0, 59.0)
    gears = []
    for model in ((), flat):
        path = FastPath(SETTINGS)
        for slot in range(1000):
            us = flat[path.gear]
            path.see(SlotSeen(slot * SLOT_S, "pdsch", us, 375.0, path.gear, us_by_gear=model))
        gears.append(path.gear)
    # Without the model 62 us on 64 SMs may be 248 us on 32, more than 0.6 of the budget.
    assert gears == [2, 0]


# --- the engine's steps


def test_a_step_over_the_limit_lowers_the_budget_at_once_and_short_ones_raise_it_slowly() -> None:
    steps = StepBudget([116, 100, 0], StepLimits(10_000.0, 64, 2048))
    assert steps.tokens(0, alarm=False) == 80
    for _ in range(60):
        steps.learn(0, 5000.0, steps.tokens(0, alarm=False))
    assert steps.tokens(0, alarm=False) == 2048
    steps.learn(0, 40_000.0, 2048)
    assert steps.tokens(0, alarm=False) == 512
    steps.learn(0, 9_000.0, 512)
    steps.learn(0, 1_000.0, 64)
    assert steps.tokens(0, alarm=False) == 512
    assert steps.tokens(0, alarm=True) == 64
    assert steps.tokens(1, alarm=False) == 441
    assert steps.tokens(2, alarm=False) == 0


@given(
    beats=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.floats(),
            st.integers(-1, 10**6),
        ),
        max_size=50,
    )
)
def test_the_step_budget_keeps_its_bounds_for_any_beats(
    beats: Sequence[tuple[int, float, int]],
) -> None:
    steps = StepBudget([116, 64, 0], StepLimits(10_000.0, 64, 2048))
    for beat in beats:
        steps.learn(*beat)
        assert all(80 <= steps.tokens(gear, alarm=False) <= 2048 for gear in (0, 1))
        assert steps.tokens(2, alarm=False) == 0


def test_prompts_go_on_though_decoding_alone_takes_longer_than_a_step_may() -> None:
    steps = StepBudget([32], StepLimits(10_000.0, 128, 2048))
    for _ in range(20):
        steps.learn(0, 41_000.0, steps.tokens(0, alarm=False))
    assert steps.tokens(0, alarm=False) == 128 + 32
    assert steps.tokens(0, alarm=True) == 128
    assert StepLimits(decode_tokens=128, most_tokens=128).least_tokens == 128


@given(base_us=st.floats(100, 9000), per_token_us=st.floats(0.1, 50))
def test_steps_end_below_the_limit_for_any_engine_that_can(
    base_us: float, per_token_us: float
) -> None:
    limits = StepLimits(10_000.0, 1, 100_000)
    steps, took_us = StepBudget([116], limits), []
    for _ in range(400):
        tokens = steps.tokens(0, alarm=False)
        took_us.append(base_us + per_token_us * tokens)
        steps.learn(0, took_us[-1], tokens)
    # Growing is by a tenth, from below 85% of the limit; the least are two tokens.
    assert max(took_us[200:]) <= max(1.1 * limits.limit_us, base_us + 3 * per_token_us)


# --- for any input

INPUTS = st.lists(
    st.tuples(
        st.floats(0.0, 3.0) | st.just(math.nan),
        st.integers(-TOP, 0),
        st.sampled_from(("pusch", "pdsch")),
    ),
    max_size=400,
)


@given(inputs=INPUTS, least=st.integers(0, TOP), spread=st.integers(0, TOP))
@settings(max_examples=200)
def test_gears_keep_within_the_plans_bounds_and_change_a_bounded_number_of_times(
    inputs: Sequence[tuple[float, int, str]], least: int, spread: int
) -> None:
    path, most = FastPath(SETTINGS), min(TOP, least + spread)
    gears = [path.bound(least, most, 0.0).gear]
    for slot, (part, older, channel) in enumerate(inputs):
        gear = min(TOP, max(0, path.gear + older))
        order = path.see(seen(slot * SLOT_S, part, gear, channel))
        gears.append(order.gear)
        assert least <= order.gear <= most
        assert order.step_tokens >= 0
        assert (order.step_tokens == 0) == (order.gear == TOP)
    steps = [b - a for a, b in pairwise(gears)]
    assert all(step >= -1 for step in steps)
    n_down = steps.count(-1)
    assert n_down <= len(inputs) * SLOT_S / SETTINGS.hold_s + 1
    assert sum(step > 0 for step in steps) <= n_down + most - least


@given(
    before=INPUTS,
    late=st.floats(1.01, 3.0) | st.just(math.nan),
    channel=st.sampled_from(("pusch", "pdsch")),
)
def test_slots_that_stay_late_end_in_the_highest_gear_within_as_many_slots_as_gears(
    before: Sequence[tuple[float, int, str]], late: float, channel: str
) -> None:
    path = FastPath(SETTINGS)
    for slot, (part, _, one) in enumerate(before):
        path.see(seen(slot * SLOT_S, part, path.gear, one))
    for slot in range(TOP):
        path.see(seen((len(before) + slot) * SLOT_S, late, path.gear, channel))
    assert path.gear == TOP


@given(load=st.floats(0.0, 1.0), power=st.floats(0.3, 2.0), lag=st.integers(0, 6))
@settings(max_examples=25)
def test_a_constant_load_settles_in_one_gear_and_no_slot_is_ever_late(
    load: float, power: float, lag: int
) -> None:
    gpu = SimulatedGpu(SETTINGS, lag_slots=lag, power=power)
    gpu.run(16_000, load)
    assert gpu.late == []
    assert len(set(gpu.gears[8000:])) == 1


# --- the loop closed by a simulated GPU


@pytest.mark.parametrize("power", [0.7, 1.0, 1.6])
def test_after_a_load_step_no_slot_is_late_from_the_twelfth_on(power: float) -> None:
    gpu = SimulatedGpu(SETTINGS, lag_slots=2, power=power)
    gpu.run(4000, 0.05)
    quiet_gear, n_before = gpu.gears[-1], len(gpu.late)
    assert n_before == 0
    step = gpu.slot
    gpu.run(4000, 1.0)
    assert gpu.gears[-1] == TOP > quiet_gear
    late = [slot - step for slot in gpu.late if slot >= step]
    # Three slots see the step in the old gear (the lag), and a wrong guess may cost three more.
    assert max(late, default=0) < 12


def test_the_engine_gets_its_part_back_when_the_load_has_gone() -> None:
    gpu = SimulatedGpu(SETTINGS, lag_slots=2)
    gpu.run(4000, 0.05)
    quiet = gpu.gears[-1]
    gpu.run(4000, 1.0)
    gpu.run(8000, 0.05)
    assert gpu.gears[-1] == quiet


def test_a_load_that_jumps_every_fifth_of_a_second_makes_the_gears_calm_down() -> None:
    gpu = SimulatedGpu(SETTINGS, lag_slots=2)
    n_late = []
    for _ in range(8):
        before = len(gpu.late)
        for _ in range(20):
            gpu.run(400, 1.0)
            gpu.run(400, 0.05)
        n_late.append(len(gpu.late) - before)
    assert n_late[0] > 0
    assert sum(n_late[4:]) <= n_late[0]
