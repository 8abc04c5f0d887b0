"""A tenant's bill for a month, and how it is written: CSV."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from marketplace.billing.spreadsheet import csv_of
from marketplace.money import MICRO_USD_PER_USD

_COLUMNS = (
    "invoice",
    "kind",
    "project",
    "model",
    "tier",
    "requests",
    "input_tokens",
    "output_tokens",
    "amount_usd",
)


@dataclass(frozen=True)
class InvoiceLine:
    """What was used of one model and tier in one project."""

    project: str
    """Empty: none."""
    model: str
    tier: str
    requests: int
    input_tokens: int
    output_tokens: int
    amount_micro_usd: int


@dataclass(frozen=True)
class Invoice:
    """What was used in a month, and what is owed at its end. Below zero: to the tenant's favour."""

    number: str
    tenant: str
    tenant_id: str
    month: str
    issued_s: float
    preliminary: bool
    """The month was not over yet."""
    lines: tuple[InvoiceLine, ...]
    opening_micro_usd: int
    """Owed when the month began."""
    refunds_micro_usd: int
    credits_micro_usd: int
    payments_micro_usd: int

    @property
    def charges_micro_usd(self) -> int:
        """The sum of the lines."""
        return sum(line.amount_micro_usd for line in self.lines)

    @property
    def due_micro_usd(self) -> int:
        """Owed at the month's end, or now while it runs."""
        given = self.refunds_micro_usd + self.credits_micro_usd + self.payments_micro_usd
        return self.opening_micro_usd + self.charges_micro_usd - given

    def sums(self) -> list[tuple[str, int]]:
        """The sums under the lines, as they are to be shown; those of nothing left out."""
        shown = [
            ("Carried over", self.opening_micro_usd),
            ("Refunds", -self.refunds_micro_usd),
            ("Credits", -self.credits_micro_usd),
            ("Payments", -self.payments_micro_usd),
        ]
        return [
            ("Used this month", self.charges_micro_usd),
            *[one for one in shown if one[1]],
            ("Due" if self.due_micro_usd >= 0 else "In your favour", self.due_micro_usd),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The invoice as JSON, with its sums."""
        values = asdict(self)
        values["lines"] = [asdict(line) for line in self.lines]
        values["charges_micro_usd"] = self.charges_micro_usd
        values["due_micro_usd"] = self.due_micro_usd
        return values


def usd_text(micro: int) -> str:
    """Micro-USD as exact USD: -1.234567."""
    sign = "-" if micro < 0 else ""
    whole, part = divmod(abs(micro), MICRO_USD_PER_USD)
    return f"{sign}{whole}.{part:06d}"


def to_csv(invoice: Invoice) -> str:
    """The invoice for a spreadsheet: its lines, then its sums."""
    head = {"invoice": invoice.number, "kind": "usage"}
    rows = [
        asdict(line) | head | {"amount_usd": usd_text(line.amount_micro_usd)}
        for line in invoice.lines
    ]
    empty = dict.fromkeys(_COLUMNS, "") | head
    rows += [
        empty | {"kind": name, "amount_usd": usd_text(amount)} for name, amount in invoice.sums()
    ]
    return csv_of(_COLUMNS, rows)
