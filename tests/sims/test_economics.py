"""The economics: known answers, an oracle of loops, properties, published results, bad files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import ConfigError, InvalidInputError, NotFoundError
from sims.economics import analysis, calibration, finance, measured, report, tier_prices
from sims.economics.fields import FIELDS
from sims.economics.model import cash_flows, evaluate
from sims.economics.scenario import Scenario, load, parse, shipped

TOKYO = load("tokyo-600")
REAL = load("gb200-nvl2")


def flows(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def test_npv_of_a_known_investment() -> None:
    # -1000 + 500/1.1 + 600/1.21 = -1000 + 454.5455 + 495.8678
    found = finance.npv(np.array([0.1]), flows(-1000, 500, 600))
    assert found[0] == pytest.approx(-49.58677686)


def test_irr_of_one_payment_is_its_growth() -> None:
    # 100 becomes 112 after twelve months: 12 % a year.
    assert finance.irr_per_year(flows(-100, *[0] * 11, 112))[0] == pytest.approx(0.12)


def test_irr_of_a_perpetual_coupon_with_redemption_is_the_coupon() -> None:
    # A bond at par: 2 % a month and the 100 back at the end.
    assert finance.irr_per_year(flows(-100, 2, 2, 2, 102))[0] == pytest.approx(1.02**12 - 1)


def test_irr_of_a_documented_example() -> None:
    # -100, 39, 59, 55, 20 gives 0.28095 a period (numpy.irr's documentation).
    assert finance.irr_per_year(flows(-100, 39, 59, 55, 20))[0] == pytest.approx(
        1.28095**12 - 1, rel=1e-4
    )


@pytest.mark.parametrize("row", [(-1, -1, -1), (1, 2, 3), (0, 0, 0), (-100, 300, -210)])
def test_no_irr_is_told_where_there_is_none_or_not_one(row: tuple[float, ...]) -> None:
    assert np.isnan(finance.irr_per_year(flows(*row))[0])


def test_payback_is_the_month_in_which_the_money_is_back() -> None:
    assert finance.payback_month(flows(-100, 40, 40, 40))[0] == 3
    assert finance.payback_month(flows(-100, 50, 50, 40))[0] == 2
    assert np.isnan(finance.payback_month(flows(-100, 30, 30))[0])


def test_tokyo_by_hand() -> None:
    run = evaluate(TOKYO, 1 / 3).run(0)
    assert run["servers"] == pytest.approx(600 / 40 * 1.5)
    assert run["ai_revenue_usd"] == pytest.approx(22.5 / 3 * 20 * 8760 * 5)
    assert run["capex_usd"] == pytest.approx(22.5 * 87_600 + 600 * 2_190)
    power = 3.5 * 8760 * 5 * 1.4 * 0.16
    opex = 22.5 * (power + 411.02 * 60) + 600 * 9.10 * 60
    assert run["opex_usd"] == pytest.approx(opex)
    assert run["roi"] == pytest.approx((run["ai_revenue_usd"] or 0) / (run["tco_usd"] or 1) - 1)


@pytest.mark.parametrize(("share", "ratio", "roi"), [(1 / 3, 2.0, 0.33), (2 / 3, 5.0, 2.19)])
def test_the_published_table_comes_out_within_two_percent(
    share: float, ratio: float, roi: float
) -> None:
    found = evaluate(TOKYO, share)
    assert found.revenue_per_capex[0] == pytest.approx(ratio, rel=0.02)
    assert found.roi[0] == pytest.approx(roi, rel=0.02)


def test_every_published_claim_is_met_watts_included() -> None:
    checks = calibration.checks(TOKYO)
    assert len(checks) == 6
    assert all(abs(check.error) < 0.02 for check in checks)


def test_calibrated_values_are_the_only_solution_of_the_published_results() -> None:
    solution = calibration.solve(TOKYO)
    assert solution.rank == len(solution.values) == 4
    assert solution.worst_residual < 1e-9
    for key, value in solution.values.items():
        assert TOKYO.quantities[key].value == pytest.approx(value, rel=0.001)


def test_at_the_edge_of_its_slack_an_input_keeps_the_results_and_beyond_it_loses_one() -> None:
    one = next(s for s in calibration.slacks(TOKYO) if s.key == "capex.server_usd")
    assert one.low is not None
    assert one.high is not None

    def worst(value: float) -> float:
        moved = TOKYO.with_value("capex.server_usd", value, "assumed")
        return max(abs(check.error) for check in calibration.checks(moved))

    for edge, step in ((one.low, 0.999), (one.high, 1.001)):
        assert worst(edge) <= 0.10
        assert worst(edge * step) > 0.10


def loop_oracle(s: Scenario, share: float) -> tuple[float, float, float]:
    """NPV, TCO and revenue by plain loops over months."""
    v = s.values()
    servers = v["network.cells"] / v["platform.cells_per_server"] / (1 - share)
    if s.rounding == "whole":
        servers = float(np.ceil(servers - 1e-9))
    racks = float(np.ceil(servers / v["platform.servers_per_rack"] - 1e-9))
    fixed = sum(value for key, value in v.items() if key.endswith("_usd_per_cell"))
    capex = servers * v["capex.server_usd"] + racks * v["capex.rack_usd"]
    capex += fixed * v["network.cells"]
    sold = share * v["ai.utilisation"] + (1 - share) * v["ai.borrowed_share"]
    load_share = min(1.0, (1 - share) * v["ran.utilisation"] + sold)
    idle = v["platform.idle_power_share"]
    kw = servers * v["platform.power_w"] * (idle + (1 - idle) * load_share) / 1000
    months = int(v["finance.months"])
    tco, revenue, present, profit, taxed = capex, 0.0, -capex, 0.0, 0.0
    for month in range(1, months + 1):
        hour = v["ai.usd_per_server_hour"]
        hour += v["ai.tokens_per_s_per_server"] * 3600 / 1e6 * v["ai.usd_per_million_tokens"]
        for tier in ("priority", "default", "flex"):
            tokens = v["ai.tokens_per_s_per_server"] * 3600 / 1e6 * v[f"ai.{tier}_token_share"]
            hour += tokens * v[f"ai.{tier}_output_usd_per_million_tokens"]
            tokens *= v["ai.input_tokens_per_output_token"]
            hour += tokens * v[f"ai.{tier}_input_usd_per_million_tokens"]
        earned = servers * sold * hour * 730
        earned *= min(1.0, month / max(v["ai.ramp_months"], 1.0))
        earned *= (1 - v["ai.price_decline_per_year"]) ** ((month - 1) / 12)
        cost = kw * 730 * v["opex.pue"] * v["opex.power_price_usd_per_kwh"]
        cost += servers * v["opex.licence_usd_per_server_month"] + v["opex.staff_usd_per_month"]
        cell = v["opex.licence_usd_per_cell_month"] + v["opex.rent_usd_per_cell_month"]
        cost += v["network.cells"] * cell
        profit += earned - cost - capex / months
        tax = max(0.0, profit - taxed) * v["finance.tax_share"]
        taxed = max(taxed, profit)
        present += (earned - cost - tax) / (1 + v["finance.discount_per_year"]) ** (month / 12)
        tco, revenue = tco + cost, revenue + earned
    return present, tco, revenue


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.8])
def test_the_vectorised_model_agrees_with_loops(name: str, share: float) -> None:
    scenario = load(name)
    found = evaluate(scenario, share)
    got = found.npv_usd[0], found.tco_usd[0], found.ai_revenue_usd[0]
    assert got == pytest.approx(loop_oracle(scenario, share), rel=1e-9)


@settings(max_examples=40)
@given(
    price=st.floats(1, 40), more=st.floats(0, 20), share=st.floats(0, 0.9), decline=st.floats(0, 1)
)
def test_a_higher_price_never_lowers_the_npv(
    price: float, more: float, share: float, decline: float
) -> None:
    prices = np.array([price, price + more])
    changes = {"ai.usd_per_server_hour": prices, "ai.price_decline_per_year": decline}
    low, high = evaluate(REAL, share, changes).npv_usd
    assert high >= low - 1e-6


@settings(max_examples=40)
@given(share=st.floats(0, 0.9), factor=st.floats(1, 3))
def test_what_costs_more_earns_less(share: float, factor: float) -> None:
    for key in ("capex.server_usd", "opex.power_price_usd_per_kwh", "opex.pue", "platform.power_w"):
        value = REAL.quantities[key].value
        low, high = evaluate(REAL, share, {key: np.array([value, value * factor])}).npv_usd
        assert high <= low + 1e-6


@settings(max_examples=30)
@given(share=st.floats(0, 0.9), price=st.floats(0, 60))
def test_money_in_is_money_out(share: float, price: float) -> None:
    changes = {"ai.usd_per_server_hour": price}
    money = cash_flows(REAL, share, changes)
    found = evaluate(REAL, share, changes)
    assert money.net.sum() == pytest.approx(
        found.ai_revenue_usd[0] - found.tco_usd[0] - money.tax.sum(), abs=1e-3
    )
    assert (money.tax >= 0).all()


def test_at_its_irr_an_investment_is_worth_nothing() -> None:
    irr = evaluate(TOKYO, 1 / 3).irr[0]
    present = evaluate(TOKYO, 1 / 3, {"finance.discount_per_year": irr}).npv_usd[0]
    assert present == pytest.approx(0, abs=1.0)


def test_a_seed_gives_the_same_monte_carlo_and_another_seed_another() -> None:
    one, same, other = (analysis.monte_carlo(TOKYO, 1 / 3, 500, seed) for seed in (7, 7, 8))
    assert np.array_equal(one.npv_usd, same.npv_usd)
    assert not np.array_equal(one.npv_usd, other.npv_usd)


def test_monte_carlo_draws_stay_in_range_and_bracket_the_tornado() -> None:
    found = analysis.monte_carlo(TOKYO, 1 / 3, 2_000, 1)
    spread = next(s for s in found.spreads if s.metric == "ai_revenue_usd")
    top = evaluate(TOKYO, 1 / 3).ai_revenue_usd[0]
    # Price runs from 10 to 20 and utilisation from 0.6 to 1, both with their mode at the top.
    assert 0.3 * top < spread.quantiles["p5"] < spread.quantiles["p95"] < top
    assert spread.mean == pytest.approx(top * (5 / 6) * (2.6 / 3), rel=0.02)


def test_a_hundred_thousand_runs_take_under_five_seconds_of_processor_time() -> None:
    start = time.process_time()
    analysis.monte_carlo(TOKYO, 1 / 3, 100_000, 1)
    assert time.process_time() - start < 5.0


def test_goal_seek_finds_the_price_of_a_payback_in_24_months() -> None:
    found = analysis.goal_seek(TOKYO, 1 / 3, ("payback_month", 24), "ai.usd_per_server_hour")
    changes = {"ai.usd_per_server_hour": np.array([found.value, found.value * 0.999])}
    at, under = evaluate(TOKYO, 1 / 3, changes).payback_month
    assert at == 24
    assert under > 24


def test_goal_seek_says_where_nothing_reaches_the_goal() -> None:
    with pytest.raises(NotFoundError, match=r"no opex\.pue from 1 to 14 gives roi 9"):
        analysis.goal_seek(TOKYO, 1 / 3, ("roi", 9.0), "opex.pue")


def test_break_even_price_and_share_bring_the_roi_to_nought() -> None:
    even = analysis.break_even(TOKYO, 1 / 3)
    price, share = even["price_at_roi_0"], even["ai_share_at_roi_0"]
    assert price == pytest.approx(20 / 1.33, rel=1e-3)
    assert share is not None
    assert evaluate(TOKYO, share).roi[0] == pytest.approx(0, abs=1e-6)


def test_a_grid_holds_what_single_runs_give() -> None:
    axes = {"ai_share": np.array([0.2, 0.6]), "ai.utilisation": np.array([0.5, 0.7, 1.0])}
    found = analysis.grid(TOKYO, 0.3, "roi", axes)
    assert found.shape == (2, 3)
    assert found[1, 0] == pytest.approx(evaluate(TOKYO, 0.6, {"ai.utilisation": 0.5}).roi[0])
    with pytest.raises(InvalidInputError, match="must lie in 0 to 1"):
        analysis.grid(TOKYO, 0.3, "roi", {**axes, "ai.utilisation": np.array([0.5, 1.5])})


def test_ai_ran_is_dearer_than_nothing_but_its_ran_is_cheaper_than_custom_ran() -> None:
    ours, custom = evaluate(TOKYO, 0.0).tco_usd[0], evaluate(load("custom-ran"), 0.0).tco_usd[0]
    assert 0 < ours < custom


def test_a_simulations_utilisation_is_sold_in_the_ran_servers(tmp_path) -> None:
    path = tmp_path / "week.json"
    path.write_text('{"utilisation": {"ran": 0.3, "ai": 0.6, "total": 0.9}}')
    found = measured.with_utilisation(TOKYO, path)
    assert found.cases == (0.0,)
    assert evaluate(found, 0.0).ai_revenue_usd[0] == pytest.approx(15 * 0.6 * 20 * 43_800)
    path.write_text('{"utilisation": {"ran": 0.5, "ai": 0.6}}')
    with pytest.raises(ConfigError, match=r"week.json: utilisation: .* over one"):
        measured.with_utilisation(TOKYO, path)


def test_the_report_stands_by_itself_and_names_every_input_with_its_source() -> None:
    page = report.as_html(TOKYO, runs=500)
    assert "<script" not in page
    assert "src=" not in page
    assert "href=" not in page
    assert page.count("<svg") == 4
    keys = {quantity.field.key for quantity in tier_prices.shown(TOKYO.quantities)}
    assert all(key in page for key in keys)
    # What is sold by tier is no input of a scenario without it.
    assert len(FIELDS) - len(keys) == 11
    assert all(key not in page for key in tier_prices.KEYS)
    by_tier = report.as_html(load("h100-tiers"), runs=500)
    assert all(field.key in by_tier for field in FIELDS)
    assert all(word in page for word in (">calibrated<", ">assumed<", ">published<", "219%"))


def test_a_scenarios_text_is_escaped_in_the_report() -> None:
    page = report.as_html(replace(TOKYO, title="<script>alert(1)</script>"), runs=50)
    assert "<script" not in page


BAD = [
    ("cells: {value: -5, unit: cells, source: a}", "network.cells: must be at least 1, got -5"),
    ("cells: {value: 5, unit: servers, source: a}", "network.cells: is in cells, not in servers"),
    ("cells: {value: 5, source: a}", "network.cells: has no unit"),
    ("cells: {value: 5, unit: cells}", "network.cells: has no source"),
    ("cells: {value: 5, unit: cells, source: ''}", "network.cells: has an empty source"),
    ("cells: {value: many, unit: cells, source: a}", "network.cells: must be a number, got 'many'"),
    ("cells: {value: .nan, unit: cells, source: a}", "network.cells: must be a number"),
    ("cells: {value: true, unit: cells, source: a}", "network.cells: must be a number"),
    ("cells: {value: 9, unit: cells, source: a, low: 10}", "network.cells: value 9 must lie"),
    ("cells: 600", "network.cells: needs value, unit and source"),
    ("sells: {value: 5, unit: cells, source: a}", "network.sells: is not known"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_value_is_named_with_file_line_and_field(line: str, message: str) -> None:
    text = f"title: x\nextends: tokyo-600\nnetwork:\n  {line}\n"
    with pytest.raises(ConfigError) as raised:
        parse(text, "my.yaml")
    assert raised.value.message.startswith(f"my.yaml:4: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "my.yaml:1: is not YAML"),
        ("", "my.yaml:1: is empty"),
        ("- a", "my.yaml:1: must have keys"),
        ("extends: nowhere\n", "my.yaml:1: extends: there is no scenario 'nowhere'"),
        ("cases: [0.5]\n", "my.yaml:1: network.cells: is missing"),
        ("extends: tokyo-600\ncases: [0.5, 1.2]\n", "my.yaml:2: cases[1]: is a share"),
        ("extends: tokyo-600\ncases: [-0.1]\n", "my.yaml:2: cases[0]: is a share"),
        ("extends: tokyo-600\nextends: gh200\n", "my.yaml:2: extends: is given twice"),
        ("extends: tokyo-600\nrounding: up\n", "my.yaml:2: rounding: must be exact or whole"),
        (
            "extends: tokyo-600\nai:\n  utilisation: {value: 1.5, unit: share, source: a}\n",
            "my.yaml:3: ai.utilisation: is a share and must be at most 1, got 1.5",
        ),
        (
            "extends: tokyo-600\nopex:\n  pue:\n    value: 0.5\n    unit: ratio\n    source: a\n",
            "my.yaml:4: opex.pue: must be at least 1",
        ),
    ],
)
def test_a_bad_file_is_named_with_line_and_field(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "my.yaml")
    assert raised.value.message.startswith(message)


def test_a_file_that_extends_itself_is_refused(tmp_path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(f"extends: {path}\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load(str(path))


def test_shipped_scenarios_give_what_they_gave() -> None:
    """Golden: rewrite it with `airan economics compare --csv tests/sims/golden/economics.csv`."""
    golden = (Path(__file__).parent / "golden/economics.csv").read_text().splitlines()
    found = report.as_csv([load(name) for name in shipped()]).splitlines()
    assert found[0] == golden[0]
    assert len(found) == len(golden)
    for line, wanted in zip(found[1:], golden[1:], strict=True):
        name, *values = line.split(",")
        wanted_name, *wanted_values = wanted.split(",")
        assert name == wanted_name
        for value, other in zip(values, wanted_values, strict=True):
            assert (value == "") == (other == "")
            assert float(value or 0) == pytest.approx(float(other or 0), rel=1e-9)


def test_the_cell_type_is_one_of_two_and_taken_from_what_is_extended() -> None:
    massive, base = load("gb200-64t64r"), load("gb200-nvl2")
    assert (massive.cell_type, base.cell_type) == ("64T64R", "4T4R")
    servers = [evaluate(one, 0.5).servers[0] for one in (massive, base)]
    assert servers == [34, 30]
    with pytest.raises(ConfigError, match=r"odd\.yaml:2: cell_type: must be 4T4R or 64T64R"):
        parse("extends: tokyo-600\ncell_type: 8T8R\n", "odd.yaml")
