from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import CapacityError, InvalidInputError
from phy.gpu import cost
from phy.gpu.cost import GpuCostModel
from phy.gpu.cost_features import SlotLoad, coding_work, feature_names, features

H100 = "NVIDIA H100 80GB HBM3"
PEAK = SlotLoad("pusch", 20, 273, 4, 27, 1, 4, 10, 132)
SENT = SlotLoad("pdsch", 20, 273, 4, 27, 2, 0, 0, 132)
SMS = (16, 32, 64, 96, 132)


def plausible_us(load: SlotLoad) -> float:
    """A simulated H100, not made of the model's own terms: floors, work over multiprocessors and
    whole rounds of code blocks, tuned to what its kernels were seen to take."""
    work = coding_work(load.n_prb, load.n_layers, load.mcs_index, load.mcs_table)
    blocks, share = load.n_cells * work.n_blocks, 132 / load.n_sms
    peak_cells = load.n_cells * load.n_prb / 273
    if load.channel == "pdsch":
        return float(12 + 0.042 * blocks * share + 0.3 * peak_cells * load.n_layers)
    front = 25 + 0.7 * peak_cells * load.n_rx / 4
    front += 0.16 * peak_cells * load.n_layers * load.n_rx * share
    edge_rounds = np.ceil(blocks / (2 * load.n_sms)) * work.n_edges
    decode = 10 + edge_rounds * (0.042 * load.n_iterations + 0.07)
    return float(front + decode + 0.035 * blocks * share)


def measured(rng: np.random.Generator, noise: float = 0.02) -> list[tuple[SlotLoad, float]]:
    loads = [
        replace(PEAK, n_cells=c, n_prb=p, n_sms=s)
        for c, p, s in product((1, 8, 20, 40), (20, 106, 273), SMS)
    ]
    loads += [
        replace(PEAK, n_layers=layers, mcs_index=mcs, n_iterations=iterations, n_rx=n_rx)
        for layers, mcs, iterations, n_rx in product((1, 2, 4), (4, 16, 27), (5, 10), (4, 16))
    ]
    loads += [
        replace(SENT, n_cells=c, n_prb=p, n_sms=s, mcs_index=mcs)
        for c, p, s, mcs in product((1, 8, 20, 40), (20, 273), SMS, (4, 27))
    ]
    return [(load, plausible_us(load) * np.exp(noise * rng.standard_normal())) for load in loads]


@pytest.fixture(scope="module")
def model() -> GpuCostModel:
    return cost.fit(measured(np.random.default_rng(1)), H100, "580.95.05", "2026-11-23")


def test_the_features_of_a_peak_slot_are_the_works_sizes() -> None:
    """100 code blocks of 8,424 bits hold the 835,976 bits of 273 PRB, 4 layers, MCS 27; rate 0.89
    needs 5 rows of base graph 1, with 79 edges (TS 38.212 table 5.3.2-2)."""
    work = coding_work(273, 4, 27, 1)
    assert (work.tb_size_bits, work.n_coded_bits) == (835_976, 943_488)
    assert (work.n_blocks, work.n_edges) == (100, 79)
    found = features(PEAK)
    assert found["samples_memory"] == 20 * 273 * 4
    assert found["block_waves"] == 8  # 2,000 code blocks, 264 at a time
    assert found["decode_waves"] == 8 * 79 * 10
    assert found["llr"] == pytest.approx(20 * 943_488 / 132)
    assert set(feature_names("pdsch")) == set(features(SENT))


def test_slots_that_were_not_measured_are_foretold(model) -> None:
    unseen = [
        replace(PEAK, n_cells=c, n_prb=p, n_sms=s, mcs_index=m)
        for c, p, s, m in product((3, 14, 30), (52, 200), (24, 60, 92), (10, 22))
    ]
    unseen += [replace(SENT, n_cells=c, n_sms=s) for c, s in product((3, 14, 30), (24, 60, 92))]
    misses = [abs(model.slot_us(load, H100) / plausible_us(load) - 1) for load in unseen]
    assert np.median(misses) < 0.05
    assert max(misses) < 0.25


def test_the_error_stated_is_that_of_slots_held_out(model) -> None:
    for channel in model.channels.values():
        assert 0.005 < channel.error.median < 0.05
        assert channel.error.median < channel.error.p95 <= channel.error.largest < 0.25
    rough = cost.fit(measured(np.random.default_rng(1), 0.2), H100, "580", "2026-11-23")
    assert rough.channels["pusch"].error.median > 3 * model.channels["pusch"].error.median


def test_a_law_made_of_the_features_is_found_again(rng) -> None:
    loads = [load for load, _ in measured(rng)]
    truth = {name: 0.1 + rng.random() for name in feature_names("pusch")}
    size = {name: max(features(load).get(name, 0) for load in loads) for name in truth}
    samples = [
        (load, sum(truth[n] * v / size[n] for n, v in features(load).items()))
        for load in loads
        if load.channel == "pusch"
    ]
    found = cost.fit(samples, H100, "580", "2026-11-23")
    assert found.channels["pusch"].error.largest < 1e-6
    for load, us in samples:
        assert found.slot_us(load, H100) == pytest.approx(us, rel=1e-8)


def test_the_h100s_front_end_follows_the_law() -> None:
    """Measured on an H100, microseconds: cells on all SMs, and older kernels on parts of it, each a
    series of its own."""
    by_cells = {1: 29.5, 8: 49.7, 20: 90.2, 40: 156.5}
    by_sms = {16: 645.0, 32: 341.0, 64: 192.0, 96: 144.0, 132: 113.0}
    first = [(replace(PEAK, n_cells=n), us) for n, us in by_cells.items()] * 2
    second = [(replace(PEAK, n_sms=n), us) for n, us in by_sms.items()] * 2
    for samples in (first, second):
        model = cost.fit(samples, H100, "580", "2026-11-23")
        for load, us in samples:
            assert model.slot_us(load, H100) == pytest.approx(us, rel=0.05)


@settings(max_examples=200)
@given(data=st.data())
def test_more_work_is_never_cheaper_and_more_multiprocessors_never_dearer(data, model) -> None:
    load = data.draw(st.sampled_from([PEAK, SENT]))
    bounds = model.channels[load.channel].ranges
    drawn = {field: data.draw(st.integers(*bounds[field])) for field in bounds}
    mcs_index = data.draw(st.integers(4, 27))
    load = replace(load, **drawn, mcs_index=mcs_index)
    field = data.draw(st.sampled_from(sorted(bounds)))
    more = replace(load, **{field: data.draw(st.integers(getattr(load, field), bounds[field][1]))})
    before, after = model.slot_us(load, H100), model.slot_us(more, H100)
    if field == "n_sms":
        assert after <= before * (1 + 1e-9)
    else:
        assert after >= before * (1 - 1e-9)


def test_the_fewest_multiprocessors_that_meet_the_budget_are_found(model) -> None:
    for budget_us in (500.0, 700.0, 1250.0):
        needed = model.sms_needed(PEAK, budget_us, H100)
        assert needed % cost.SM_STEP == 0
        assert model.slot_us(replace(PEAK, n_sms=needed), H100) <= budget_us
        if needed > 16:
            assert model.slot_us(replace(PEAK, n_sms=needed - 8), H100) > budget_us
    on_all_us = model.slot_us(PEAK, H100)
    assert model.sms_needed(PEAK, on_all_us, H100) == 132
    assert model.sms_needed(replace(PEAK, n_cells=1, n_sms=1), 1250.0, H100) == 16


def test_a_budget_that_no_part_of_the_gpu_meets_is_refused(model) -> None:
    with pytest.raises(CapacityError, match="132 multiprocessors, the budget is 20 us"):
        model.sms_needed(PEAK, 20.0, H100)
    for budget_us in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError) as caught:
            model.sms_needed(PEAK, budget_us, H100)
        assert caught.value.field == "budget_us"


def test_another_device_is_refused(model) -> None:
    for ask in (
        lambda: model.slot_us(PEAK, "NVIDIA H200"),
        lambda: model.sms_needed(PEAK, 1250.0, "NVIDIA H200"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            ask()
        assert caught.value.field == "device"
        assert H100 in caught.value.message
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("change", "field", "measured_range"),
    [
        ({"n_cells": 41}, "n_cells", "1 to 40"),
        ({"n_prb": 19}, "n_prb", "20 to 273"),
        ({"n_rx": 2}, "n_rx", "4 to 16"),
        ({"n_iterations": 11}, "n_iterations", "5 to 10"),
        ({"n_sms": 8}, "n_sms", "16 to 132"),
        ({"mcs_index": 3}, "mcs_index", "4 to 27"),
        ({"mcs_table": 2}, "mcs_table", "[1]"),
    ],
)
def test_what_was_not_measured_is_refused_not_extrapolated(
    model, change, field, measured_range
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        model.slot_us(replace(PEAK, **change), H100)
    assert caught.value.field == field
    assert measured_range in caught.value.message
    if field != "n_sms":
        with pytest.raises(InvalidInputError):
            model.sms_needed(replace(PEAK, **change), 1250.0, H100)


def test_a_channel_that_was_not_measured_is_refused(rng) -> None:
    samples = [each for each in measured(rng) if each[0].channel == "pusch"]
    model = cost.fit(samples, H100, "580", "2026-11-23")
    with pytest.raises(InvalidInputError) as caught:
        model.slot_us(SENT, H100)
    assert caught.value.field == "channel"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"channel": "prach"}, "channel"),
        ({"n_cells": 0}, "n_cells"),
        ({"n_prb": 276}, "n_prb"),
        ({"n_layers": 5}, "n_layers"),
        ({"n_rx": 0}, "n_rx"),
        ({"n_iterations": 0}, "n_iterations"),
        ({"n_sms": 0}, "n_sms"),
        ({"n_sms": 16.5}, "n_sms"),
        ({"mcs_table": 4}, "table"),
        ({"channel": "pdsch"}, "n_rx"),
    ],
)
def test_a_load_that_no_slot_has_is_refused(change, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        replace(PEAK, **change)
    assert field in caught.value.field


@pytest.mark.parametrize(
    ("samples", "texts", "field"),
    [
        ([], {}, "samples"),
        ([(PEAK, 300.0)] * 7, {}, "samples"),
        ([(PEAK, 300.0)] * 8 + [(SENT, 100.0)], {}, "samples"),
        ([(PEAK, 300.0)] * 8 + [(PEAK, 0.0)], {}, "samples"),
        ([(PEAK, 300.0)] * 8 + [(PEAK, float("nan"))], {}, "samples"),
        ([(PEAK, 300.0)] * 8, {"device": ""}, "device"),
        ([(PEAK, 300.0)] * 8, {"driver": ""}, "driver"),
        ([(PEAK, 300.0)] * 8, {"date": "yesterday"}, "date"),
    ],
)
def test_samples_that_determine_no_law_are_refused(samples, texts, field) -> None:
    named = {"device": H100, "driver": "580", "date": "2026-11-23"} | texts
    with pytest.raises(InvalidInputError) as caught:
        cost.fit(samples, **named)
    assert caught.value.field == field


def test_a_model_survives_its_json(model) -> None:
    read = GpuCostModel.from_json(model.to_json())
    assert read == model
    assert read.slot_us(PEAK, H100) == model.slot_us(PEAK, H100)


def broken(change) -> str:
    samples = measured(np.random.default_rng(1))
    fields = json.loads(cost.fit(samples, H100, "580", "2026-11-23").to_json())
    change(fields, fields["channels"]["pusch"])
    return json.dumps(fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, pusch: model.update(extra=1),
        lambda model, pusch: model.pop("driver"),
        lambda model, pusch: model.update(device=3),
        lambda model, pusch: model.update(date="23 November"),
        lambda model, pusch: model.update(channels={}),
        lambda model, pusch: model["channels"].update(prach=pusch),
        lambda model, pusch: pusch.update(extra=1),
        lambda model, pusch: pusch["us_of"].pop("launch"),
        lambda model, pusch: pusch["us_of"].update(other=1.0),
        lambda model, pusch: pusch["us_of"].update(launch=-1.0),
        lambda model, pusch: pusch["us_of"].update(launch=float("nan")),
        lambda model, pusch: pusch["us_of"].update(launch="1"),
        lambda model, pusch: pusch["us_of"].update(dict.fromkeys(pusch["us_of"], 0.0)),
        lambda model, pusch: pusch["ranges"].pop("n_sms"),
        lambda model, pusch: pusch["ranges"].update(n_sms=[132, 16]),
        lambda model, pusch: pusch["ranges"].update(n_sms=[16]),
        lambda model, pusch: pusch["ranges"].update(n_sms=[16, 132.5]),
        lambda model, pusch: pusch["mcs"].clear(),
        lambda model, pusch: pusch["mcs"].update({"9": [0, 27]}),
        lambda model, pusch: pusch["mcs"].update({"1": [0, 99]}),
        lambda model, pusch: pusch["error"].pop("p95"),
        lambda model, pusch: pusch["error"].update(largest=float("inf")),
        lambda model, pusch: pusch.update(n_samples=0),
    ],
)
def test_a_file_that_holds_no_model_is_refused(change) -> None:
    with pytest.raises(InvalidInputError) as caught:
        GpuCostModel.from_json(broken(change))
    assert caught.value.field == "cost_model"


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"channels": 3}'])
def test_a_text_that_is_no_model_is_refused(text) -> None:
    with pytest.raises(InvalidInputError):
        GpuCostModel.from_json(text)
