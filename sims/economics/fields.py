"""The inputs of a scenario: their names, units and bounds. One place, read by all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sims.economics import tier_prices

KINDS = ("published", "assumed", "calibrated")
MONTH_HOURS = 730.0
"""A twelfth of 8,760 hours."""


@dataclass(frozen=True)
class Field:
    """One input: where it stands in the file, its unit, what it may be."""

    section: str
    name: str
    unit: str
    meaning: str
    low: float = 0.0
    high: float = math.inf
    above_low: bool = False
    """Whether `low` itself is refused."""
    default: float | None = None
    """None: the file must give it."""

    @property
    def key(self) -> str:
        """The path in the file, such as `capex.server_usd`."""
        return f"{self.section}.{self.name}"

    def problem(self, value: float) -> str | None:
        """What is wrong with `value`, if anything."""
        if not math.isfinite(value):
            return f"must be a finite number, got {value}"
        if value < self.low:
            what = "must not be negative" if self.low == 0 else f"must be at least {self.low:g}"
            return f"{what}, got {value:g}"
        if self.above_low and value == self.low:
            return f"must be more than {self.low:g}, got {value:g}"
        if value > self.high:
            noun = "is a share and " if self.unit.startswith("share") else ""
            return f"{noun}must be at most {self.high:g}, got {value:g}"
        return None


def _positive(section: str, name: str, unit: str, meaning: str) -> Field:
    return Field(section, name, unit, meaning, above_low=True)


def _cost(section: str, name: str, unit: str, meaning: str) -> Field:
    return Field(section, name, unit, meaning, default=0.0)


FIELDS: tuple[Field, ...] = (
    Field("network", "cells", "cells", "cells of the network", low=1.0),
    _positive("network", "cell_gbps", "Gb/s", "peak downlink of one cell"),
    _positive("platform", "cells_per_server", "cells", "cells a server carries, RAN only"),
    _positive("platform", "ran_gbps_per_server", "Gb/s", "RAN throughput of a server, RAN only"),
    _positive("platform", "power_w", "W", "draw of a server at full load"),
    Field("platform", "idle_power_share", "share", "draw of an idle server", 0, 1, default=1.0),
    Field("platform", "servers_per_rack", "servers", "servers in a rack", low=1.0, default=8.0),
    _cost("capex", "server_usd", "USD/server", "price of a server"),
    _cost("capex", "rack_usd", "USD/rack", "rack with switches"),
    _cost("capex", "site_usd_per_cell", "USD/cell", "site, and fixed CapEx not told apart"),
    _cost("capex", "radio_usd_per_cell", "USD/cell", "this project's share of the radio unit"),
    _cost("capex", "fronthaul_usd_per_cell", "USD/cell", "fronthaul"),
    _cost("capex", "timing_usd_per_cell", "USD/cell", "PTP timing"),
    _cost("opex", "power_price_usd_per_kwh", "USD/kWh", "price of electricity"),
    Field("opex", "pue", "ratio", "power usage effectiveness of the room", low=1.0, default=1.0),
    _cost("opex", "licence_usd_per_server_month", "USD/server/month", "software and maintenance"),
    _cost("opex", "licence_usd_per_cell_month", "USD/cell/month", "vRAN licence"),
    _cost("opex", "rent_usd_per_cell_month", "USD/cell/month", "rent, and fixed OpEx of a cell"),
    _cost("opex", "staff_usd_per_month", "USD/month", "staff, whatever the size"),
    _cost("ai", "usd_per_server_hour", "USD/server/h", "revenue of a server all on AI, fully sold"),
    _cost("ai", "tokens_per_s_per_server", "tokens/s", "speed of a server all on AI"),
    _cost("ai", "usd_per_million_tokens", "USD/Mtoken", "price of tokens"),
    *(
        Field("ai", f"{tier}_token_share", "share", f"{tier}: part of the tokens", 0, 1, default=0)
        for tier in tier_prices.TIERS
    ),
    *(
        _cost("ai", f"{tier}_{way}_usd_per_million_tokens", "USD/Mtoken", f"{tier}: price, {way}")
        for tier in tier_prices.TIERS
        for way in ("input", "output")
    ),
    Field("ai", "input_tokens_per_output_token", "ratio", "prompts' tokens, by tier", default=0.0),
    Field("ai", "tier_price_level", "ratio", "what the tiers' prices are times", default=1.0),
    Field("ai", "utilisation", "share", "part of the AI capacity that is sold", 0, 1),
    Field("ai", "borrowed_share", "share", "part of the RAN part lent to AI", 0, 1, default=0.0),
    Field("ai", "ramp_months", "months", "months until utilisation is reached", default=0.0),
    Field("ai", "price_decline_per_year", "share/year", "yearly fall of price", 0, 1, default=0.0),
    Field("ran", "utilisation", "share", "mean load of the RAN part", 0, 1, default=0.33),
    Field("finance", "months", "months", "life of the investment", low=1.0, high=600.0),
    Field("finance", "discount_per_year", "share/year", "discount rate", 0, 1),
    Field("finance", "tax_share", "share", "tax on profit, losses carried forward", 0, 1),
)
BY_KEY = {field.key: field for field in FIELDS}
SECTIONS = tuple(dict.fromkeys(field.section for field in FIELDS))


@dataclass(frozen=True)
class Quantity:
    """A value of a scenario with what it rests on."""

    field: Field
    value: float
    source: str
    """A URL or text, or the word `assumed` or `calibrated`."""
    note: str = ""
    low: float | None = None
    high: float | None = None
    where: str = ""
    """File and line; empty for a default."""

    @property
    def kind(self) -> str:
        """One of `KINDS`; what has a source is published."""
        return self.source if self.source in KINDS else "published"

    @property
    def span(self) -> tuple[float, float]:
        """Low and high: as given, else a fifth each way where it is not published, in bounds."""
        slack = 0.0 if self.kind == "published" else 0.2
        low = self.value * (1 - slack) if self.low is None else self.low
        high = self.value * (1 + slack) if self.high is None else self.high
        return max(low, self.field.low), min(high, self.field.high)
