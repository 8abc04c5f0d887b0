"""Takes a simulation's utilisation into a scenario."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from airan.core.errors import ConfigError
from sims.economics import tier_prices
from sims.economics.scenario import Scenario


def with_utilisation(scenario: Scenario, path: Path) -> Scenario:
    """The scenario with one case: servers bought for the cells alone, AI in what they leave.

    `path` is JSON of `airan simulate`: `utilisation.ran` and `utilisation.ai` are mean shares of
    the whole pool.

    Raises:
        ConfigError: the file cannot be read, or holds no such shares.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    found = content.get("utilisation") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: utilisation: is missing", remedy="give JSON of airan simulate")
    ran, ai = (_share(found.get(part), f"{path}: utilisation.{part}") for part in ("ran", "ai"))
    if ran + ai > 1 + 1e-6:
        raise ConfigError(f"{path}: utilisation: ran and ai are {ran + ai:g} together, over one")
    source = f"simulated: {path.name}"
    changed = scenario.with_value("ran.utilisation", ran, source)
    changed = changed.with_value("ai.borrowed_share", ai, source)
    if tier_prices.are_given(scenario.quantities):
        changed = _with_mix(changed, content, path, source)
    return replace(changed, cases=(0.0,), published=(), watt_claims=())


def _with_mix(scenario: Scenario, content: Any, path: Path, source: str) -> Scenario:
    """The tiers' parts of the tokens, and the prompts', of the first policy."""
    try:
        tiers = content["policies"][0]["ai"]["tiers"]
        made = [float(tiers.get(tier, {}).get("generated_tokens", 0)) for tier in tier_prices.TIERS]
        read = [float(tiers.get(tier, {}).get("context_tokens", 0)) for tier in tier_prices.TIERS]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path}: policies[0].ai.tiers: is missing", remedy="give JSON of airan simulate"
        ) from error
    if not sum(made) > 0 or not all(math.isfinite(one) and one >= 0 for one in made + read):
        raise ConfigError(f"{path}: policies[0].ai.tiers: no tier has tokens")
    for key, tokens in zip(tier_prices.SHARES, made, strict=True):
        scenario = scenario.with_value(key, tokens / sum(made), source)
    return scenario.with_value(tier_prices.PROMPT, sum(read) / sum(made), source)


def _share(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise ConfigError(f"{where}: is a share and must lie in 0 to 1, got {value:g}")
    return float(value)
