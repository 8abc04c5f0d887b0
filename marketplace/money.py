"""Prices and amounts. Money is integers of micro-USD; nothing is ever added up in floats."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

MICRO_USD_PER_USD = 1_000_000


@dataclass(frozen=True)
class Price:
    """What 1,000 tokens, and each request by itself, cost in micro-USD."""

    input_micro_usd_per_1k: int
    output_micro_usd_per_1k: int
    per_request_micro_usd: int = 0

    @classmethod
    def from_usd(cls, input_usd_per_1k: float, output_usd_per_1k: float) -> Price:
        """From USD per 1,000 tokens, rounded to whole micro-USD."""
        return cls(micro_usd(input_usd_per_1k), micro_usd(output_usd_per_1k))

    def amount_micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """What a job costs, rounded half up once."""
        milli = (
            input_tokens * self.input_micro_usd_per_1k
            + output_tokens * self.output_micro_usd_per_1k
        )
        return (milli + 500) // 1000 + self.per_request_micro_usd


def micro_usd(usd: float) -> int:
    """USD as written in a configuration -> micro-USD."""
    exact = Decimal(str(usd)) * MICRO_USD_PER_USD
    return int(exact.to_integral_value(rounding=ROUND_HALF_UP))
