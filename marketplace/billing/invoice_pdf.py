"""An invoice as a PDF: A4 pages of a table, drawn with matplotlib."""

from __future__ import annotations

import io
import textwrap
import warnings
from datetime import UTC, datetime
from typing import Any

from marketplace.billing.invoice import Invoice, InvoiceLine, usd_text

_A4_INCHES = (8.27, 11.69)
_LEFT, _RIGHT = 0.08, 0.92
_TOP, _BOTTOM, _STEP = 0.93, 0.08, 0.021
_COLUMNS = (
    ("Project", _LEFT, "left"),
    ("Model", 0.22, "left"),
    ("Tier", 0.47, "left"),
    ("Requests", 0.61, "right"),
    ("Tokens in", 0.71, "right"),
    ("Tokens out", 0.82, "right"),
    ("USD", _RIGHT, "right"),
)
_WIDTHS = (16, 30, 9)
"""Characters of a text column."""


def to_pdf(invoice: Invoice, seller: str) -> bytes:
    """The invoice, a page or more. Takes some tenths of a second: call it in a thread."""
    # Loading matplotlib takes time and memory that a gateway without invoices should not need.
    from matplotlib.backends.backend_pdf import PdfPages

    out = io.BytesIO()
    about = {"Title": f"Invoice {invoice.number}", "Author": seller, "CreationDate": None}
    rows = [_cells(line) for line in invoice.lines]
    with warnings.catch_warnings():
        # Names may be in scripts that the font lacks; then they show as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        with PdfPages(out, metadata=about) as pages:
            _draw(pages, invoice, seller, rows)
    return out.getvalue()


def _draw(pages: Any, invoice: Invoice, seller: str, rows: list[list[str]]) -> None:
    page = _Page(invoice, 1)
    page.head(seller)
    page.columns()
    for row in rows:
        if page.y < _BOTTOM + 2 * _STEP:
            page.save(pages)
            page = _Page(invoice, page.number + 1)
            page.columns()
        page.row(row)
    sums = invoice.sums()
    if page.y < _BOTTOM + (len(sums) + 3) * _STEP:
        page.save(pages)
        page = _Page(invoice, page.number + 1)
    page.sums(sums)
    page.save(pages)


class _Page:
    """A page being drawn from the top; `y` is where the next line goes, 1 at the top."""

    def __init__(self, invoice: Invoice, number: int) -> None:
        from matplotlib.figure import Figure

        self._invoice = invoice
        self._figure = Figure(figsize=_A4_INCHES)
        self.number = number
        self.y = _TOP

    def head(self, seller: str) -> None:
        invoice = self._invoice
        title = "Preliminary invoice" if invoice.preliminary else "Invoice"
        self._text(_LEFT, f"{title} {invoice.number}", size=15, weight="bold")
        self.y -= 2 * _STEP
        day = datetime.fromtimestamp(invoice.issued_s, UTC).strftime("%Y-%m-%d")
        facts = (
            ("From", seller),
            ("To", f"{invoice.tenant} ({invoice.tenant_id})"),
            ("Month", f"{invoice.month} (UTC)"),
            ("Issued", day),
        )
        for name, value in facts:
            self._text(_LEFT, name, color="0.4")
            self._text(0.18, textwrap.shorten(value, 80, placeholder="…"))
            self.y -= _STEP
        self.y -= _STEP

    def columns(self) -> None:
        for name, x, side in _COLUMNS:
            self._text(x, name, ha=side, weight="bold")
        self._line(-0.35)
        self.y -= 1.3 * _STEP

    def row(self, cells: list[str]) -> None:
        for (_, x, side), cell in zip(_COLUMNS, cells, strict=True):
            self._text(x, cell, ha=side)
        self.y -= _STEP

    def sums(self, sums: list[tuple[str, int]]) -> None:
        self._line(0.7)
        for number, (name, amount) in enumerate(sums):
            last = number == len(sums) - 1
            self.y -= 0.4 * _STEP if last else 0.0
            weight = "bold" if last else "normal"
            self._text(0.60, name, weight=weight)
            self._text(_RIGHT, usd_text(abs(amount) if last else amount), ha="right", weight=weight)
            self.y -= _STEP

    def save(self, pages: Any) -> None:
        self.y = _BOTTOM / 2
        self._text(_LEFT, f"Invoice {self._invoice.number}", color="0.4")
        self._text(_RIGHT, f"page {self.number}", ha="right", color="0.4")
        pages.savefig(self._figure)

    def _text(self, x: float, text: str, *, size: float = 8.5, **options: Any) -> None:
        # A $ in a name is no formula.
        self._figure.text(x, self.y, text, fontsize=size, parse_math=False, **options)

    def _line(self, steps: float) -> None:
        from matplotlib.lines import Line2D

        y = self.y + steps * _STEP
        self._figure.add_artist(Line2D([_LEFT, _RIGHT], [y, y], color="0.6", linewidth=0.6))


def _cells(line: InvoiceLine) -> list[str]:
    texts = (line.project or "–", line.model, line.tier)
    shown = [
        text if len(text) <= width else text[: width - 1] + "…"
        for text, width in zip(texts, _WIDTHS, strict=True)
    ]
    counts = [f"{n:,}" for n in (line.requests, line.input_tokens, line.output_tokens)]
    return [*shown, *counts, usd_text(line.amount_micro_usd)]
