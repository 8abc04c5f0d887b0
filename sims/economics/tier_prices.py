"""AI sold by tier and direction, as the live price book has it: USD a million tokens.

`ai.tokens_per_s_per_server` is of generated tokens; each tier has a part of them, and each goes
with `ai.input_tokens_per_output_token` of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sims.economics.fields import Quantity

TIERS = ("priority", "default", "flex")
SHARES = tuple(f"ai.{tier}_token_share" for tier in TIERS)
INPUT = tuple(f"ai.{tier}_input_usd_per_million_tokens" for tier in TIERS)
OUTPUT = tuple(f"ai.{tier}_output_usd_per_million_tokens" for tier in TIERS)
KEYS = frozenset((*SHARES, *INPUT, *OUTPUT))
PROMPT = "ai.input_tokens_per_output_token"
LEVEL = "ai.tier_price_level"
_AS_DEFAULT = "as default"
_OTHERS = ("ai.usd_per_server_hour", "ai.usd_per_million_tokens")

Floats = npt.NDArray[np.float64]


def are_given(quantities: Mapping[str, Quantity]) -> bool:
    """Whether the scenario has prices by tier."""
    return any(quantities[key].value > 0 for key in (*INPUT, *OUTPUT))


def replaced(quantities: dict[str, Quantity], given: Mapping[str, Any]) -> None:
    """A price of one kind replaces the other kinds' of the scenario that is extended."""
    if any(key.startswith("ai.") and "usd_per" in key and key not in KEYS for key in given):
        for key in (*_OTHERS, *KEYS, "ai.tokens_per_s_per_server"):
            quantities.pop(key, None)
    elif any(key in KEYS for key in given):
        for key in _OTHERS:
            quantities.pop(key, None)


def as_default(quantities: dict[str, Quantity]) -> None:
    """A tier that has no price of its own costs what `default` costs."""
    for keys in (INPUT, OUTPUT):
        default = quantities.get(keys[TIERS.index("default")])
        if default is None or not default.where:
            continue
        for key in keys:
            own = quantities.get(key)
            if own is None or not own.where or own.note == _AS_DEFAULT:
                quantities[key] = _of(key, default)


def _of(key: str, base: Quantity) -> Quantity:
    from sims.economics.fields import BY_KEY, Quantity

    return Quantity(
        BY_KEY[key], base.value, base.source, _AS_DEFAULT, base.low, base.high, base.where
    )


def problem(quantities: Mapping[str, Quantity]) -> tuple[str, str, str] | None:
    """What is wrong with the prices together: field, problem, remedy."""
    kinds = sum(quantities[key].value > 0 for key in _OTHERS) + are_given(quantities)
    if kinds > 1:
        return (
            "ai",
            "has more than one of: a price by the hour, one by the token, prices by tier",
            "give usd_per_server_hour, or tokens_per_s_per_server with usd_per_million_tokens or"
            " with the tiers' shares and prices",
        )
    total = sum(quantities[key].value for key in SHARES)
    if (are_given(quantities) or total > 0) and abs(total - 1.0) > 1e-6:
        return ("ai", f"the tiers' token shares are {total:g} together", "make them 1")
    if total > 0 and not are_given(quantities):
        return ("ai", "has token shares of tiers, but no prices", f"give {OUTPUT[1]}")
    return None


def shown(quantities: Mapping[str, Quantity]) -> list[Quantity]:
    """The inputs that count: those of tiers only where AI is sold by tier."""
    hidden = frozenset() if are_given(quantities) else KEYS | {PROMPT, LEVEL}
    return [one for key, one in quantities.items() if key not in hidden]


def usd_per_hour(v: Mapping[str, Floats]) -> Floats:
    """Of a server all on AI, fully sold; shares that were drawn are taken in proportion."""
    total = sum(v[key] for key in SHARES)
    price = sum(
        v[share] * (v[PROMPT] * v[read] + v[made])
        for share, read, made in zip(SHARES, INPUT, OUTPUT, strict=True)
    )
    per_token = price / np.maximum(total, 1e-12) * v[LEVEL] / 1e6
    found: Floats = v["ai.tokens_per_s_per_server"] * 3600.0 * per_token
    return found
