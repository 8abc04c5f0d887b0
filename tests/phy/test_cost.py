from __future__ import annotations

import json

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import PuschConfig, cost
from phy.channel import ChannelConfig
from phy.cost import CostModel

LINE = [(n_prb, 300.0 + 40.0 * n_prb) for n_prb in (5, 10, 20, 30, 51)]


def test_a_line_is_found_again() -> None:
    model = cost.fit(LINE, "here")
    assert model.base_us == pytest.approx(300.0)
    assert model.us_per_prb == pytest.approx(40.0)
    assert model.error_us == pytest.approx(0.0, abs=1e-6)
    assert (model.n_slots, model.max_n_prb, model.device) == (5, 51, "here")
    assert model.slot_us(20, "here") == pytest.approx(1100.0)


def test_one_slot_that_was_disturbed_does_not_bend_the_line(rng) -> None:
    samples = [(n_prb, us + rng.normal(0, 5)) for n_prb, us in LINE * 6]
    disturbed = [*samples, (51, 60_000.0)]
    model = cost.fit(disturbed, "here")
    assert model.us_per_prb == pytest.approx(40.0, abs=1.0)
    assert 1.0 < model.error_us < 20.0


def test_relative_cost_is_a_part_of_the_full_slots() -> None:
    model = cost.fit(LINE, "here")
    assert model.relative_cost(0) == 0.0
    assert model.relative_cost(51) == pytest.approx(1.0)
    assert model.relative_cost(5) == pytest.approx(500 / 2340)


def test_no_term_is_negative() -> None:
    falling = cost.fit([(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)], "here")
    assert (falling.base_us, falling.us_per_prb) == (pytest.approx(7.5, abs=0.6), 0.0)
    steep = cost.fit([(1, 1.0), (2, 50.0), (3, 100.0), (4, 150.0)], "here")
    assert steep.base_us == 0.0
    assert steep.us_per_prb > 0.0


def test_a_model_survives_its_json() -> None:
    model = cost.fit(LINE, "here")
    assert CostModel.from_json(model.to_json()) == model


def test_another_device_is_refused() -> None:
    model = cost.fit(LINE, "here")
    with pytest.raises(InvalidInputError) as caught:
        model.slot_us(20, "there")
    assert caught.value.field == "device"
    assert "here" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "samples",
    [
        [],
        LINE[:3],
        [(10, 1.0)] * 8,
        [*LINE, (20, float("nan"))],
        [*LINE, (20, -1.0)],
    ],
)
def test_samples_that_determine_no_line_are_refused(samples) -> None:
    with pytest.raises(InvalidInputError) as caught:
        cost.fit(samples, "here")
    assert caught.value.field == "samples"


@pytest.mark.parametrize("n_prb", [-1, 52, float("nan")])
def test_a_load_outside_the_measured_range_is_refused(n_prb) -> None:
    with pytest.raises(InvalidInputError) as caught:
        cost.fit(LINE, "here").relative_cost(n_prb)
    assert caught.value.field == "n_prb"


GOOD = json.loads(cost.fit(LINE, "here").to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(GOOD | {"extra": 1}),
        json.dumps(GOOD | {"base_us": float("nan")}),
        json.dumps(GOOD | {"base_us": "1"}),
        json.dumps(GOOD | {"device": 3}),
        json.dumps(GOOD | {"us_per_prb": -1.0}),
        json.dumps(GOOD | {"max_n_prb": 0}),
        json.dumps(GOOD | {"base_us": 0.0, "us_per_prb": 0.0}),
    ],
)
def test_a_file_that_holds_no_model_is_refused(text) -> None:
    with pytest.raises(InvalidInputError) as caught:
        CostModel.from_json(text)
    assert caught.value.field == "cost_model"


def test_real_slots_are_measured_and_bigger_ones_cost_more() -> None:
    model = cost.measure(
        PuschConfig(n_prb=40, mcs_index=16), ChannelConfig(snr_db=25.0), (4, 40), repeats=6
    )
    assert model.n_slots == 12
    assert model.device == cost.device_name()
    assert model.us_per_prb > 0.0
    assert 0.0 < model.relative_cost(4) < model.relative_cost(40)
    assert np.isfinite(model.error_us)
