"""AI sold by tier and direction: the price book's arithmetic, bad scenarios, a simulated mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airan.core.errors import ConfigError
from marketplace.money import Price
from sims.economics import analysis, measured, tier_prices
from sims.economics.fields import MONTH_HOURS
from sims.economics.model import cash_flows
from sims.economics.scenario import Scenario, load

TIERED = load("h100-tiers")
SHARE = 2 / 3


def _with(tmp_path: Path, ai: str) -> Scenario:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: h100-tiers\nai:\n  {ai}\n")
    return load(str(path))


def test_a_month_earns_what_the_ledger_would_bill():
    v = TIERED.values()
    changes = {"ai.ramp_months": 1.0, "ai.price_decline_per_year": 0.0}
    earned = cash_flows(TIERED, SHARE, changes).revenue[0, 1]
    servers = 45.0
    made = v["ai.tokens_per_s_per_server"] * 3600 * MONTH_HOURS * v["ai.utilisation"] * SHARE
    made *= servers
    billed = 0
    for tier in tier_prices.TIERS:
        one = made * v[f"ai.{tier}_token_share"]
        price = Price.from_usd(
            v[f"ai.{tier}_input_usd_per_million_tokens"] / 1e3,
            v[f"ai.{tier}_output_usd_per_million_tokens"] / 1e3,
        )
        billed += price.amount_micro_usd(
            round(one * v["ai.input_tokens_per_output_token"]), round(one)
        )
    assert earned == pytest.approx(billed / 1e6, rel=1e-9)


def test_a_tier_without_a_price_costs_as_default(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: h100-server\nai:\n"
        "  default_output_usd_per_million_tokens: {value: 3, unit: USD/Mtoken, source: assumed}\n"
        "  flex_token_share: {value: 1, unit: share, source: assumed}\n"
    )
    found = load(str(path))
    assert found.quantities["ai.flex_output_usd_per_million_tokens"].value == 3
    assert found.quantities["ai.usd_per_million_tokens"].value == 0


def test_a_price_of_another_kind_replaces_those_by_tier(tmp_path: Path):
    found = _with(tmp_path, "usd_per_server_hour: {value: 4, unit: USD/server/h, source: assumed}")
    assert not tier_prices.are_given(found.quantities)
    assert found.quantities["ai.flex_token_share"].value == 0


@pytest.mark.parametrize(
    ("ai", "problem"),
    [
        ("flex_token_share: {value: 0.7, unit: share, source: assumed}", "ai: .* 1.1 together"),
        ("flex_token_share: {value: 1.7, unit: share, source: assumed}", "flex_token_share: is a"),
        (
            "flex_input_usd_per_million_tokens: {value: -1, unit: USD/Mtoken, source: assumed}",
            "flex_input_usd_per_million_tokens: must not be negative",
        ),
        (
            "flex_input_usd_per_million_tokens: {value: 1, unit: USD, source: assumed}",
            "flex_input_usd_per_million_tokens: is in USD/Mtoken",
        ),
    ],
)
def test_bad_tiers_name_file_line_and_field(tmp_path: Path, ai: str, problem: str):
    with pytest.raises(ConfigError, match=rf"mine\.yaml:[23]: .*{problem}"):
        _with(tmp_path, ai)


def test_two_kinds_of_prices_are_refused(tmp_path: Path):
    both = "usd_per_server_hour: {value: 4, unit: USD/server/h, source: assumed}\n"
    both += (
        "  default_output_usd_per_million_tokens: {value: 3, unit: USD/Mtoken, source: assumed}\n"
    )
    both += "  flex_token_share: {value: 1, unit: share, source: assumed}"
    with pytest.raises(ConfigError, match="more than one of"):
        _with(tmp_path, both)


def test_goal_seek_moves_the_level_of_all_tiers():
    assert analysis.price_key(TIERED) == tier_prices.LEVEL
    found = analysis.goal_seek(TIERED, SHARE, ("payback_month", 24), tier_prices.LEVEL)
    assert found.value > 0.0


def test_a_simulations_mix_of_tiers_is_taken_over(tmp_path: Path):
    path = tmp_path / "week.json"
    tiers = {
        "priority": {"generated_tokens": 10, "context_tokens": 40},
        "flex": {"generated_tokens": 30, "context_tokens": 120},
    }
    body = {"utilisation": {"ran": 0.3, "ai": 0.6}, "policies": [{"ai": {"tiers": tiers}}]}
    path.write_text(json.dumps(body))
    found = measured.with_utilisation(TIERED, path).values()
    assert [found[key] for key in tier_prices.SHARES] == [0.25, 0.0, 0.75]
    assert found[tier_prices.PROMPT] == 4.0
    path.write_text(json.dumps(body | {"policies": []}))
    with pytest.raises(ConfigError, match=r"policies\[0\]"):
        measured.with_utilisation(TIERED, path)
