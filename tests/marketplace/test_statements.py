"""Usage, cost and invoices: all money that was billed is told, once and to its owner."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.billing.invoice import Invoice, InvoiceLine, to_csv, usd_text
from marketplace.billing.invoice_pdf import to_pdf
from marketplace.store.statements import UsageQuery, month_start_s
from tests.marketplace.books import Shop

DAY_S = 86_400.0
NOVEMBER_S = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    shop.tenant()
    yield shop
    assert shop.books.check()["problems"] == []
    shop.close()


def sell(shop: Shop, who: object, time_s: float, n_out: int, tier: str = "default") -> str:
    job = shop.accept(who, 1000, n_out, now_s=time_s, tier=tier)  # type: ignore[arg-type]
    assert shop.finish(job.job_id, 1000, n_out, now_s=time_s)
    return job.job_id


def test_usage_is_added_up_by_time_and_by_what_is_asked(shop: Shop) -> None:
    shop.accounts.create_project("acme", "web", NOVEMBER_S)
    web, bare = shop.principal(project="web"), shop.principal()
    for hours, who, tier in ((0, web, "default"), (1, web, "flex"), (25, bare, "flex")):
        sell(shop, who, NOVEMBER_S + 3600 * hours + 1799.9, 1000, tier)
    shop.tenant("beta")
    sell(shop, shop.principal("beta"), NOVEMBER_S, 1000)

    def rows(*groups: str, **changes: object) -> list[dict[str, object]]:
        span = (NOVEMBER_S, NOVEMBER_S + 5 * DAY_S)
        query = UsageQuery(*span, "acme", group_by=groups, **changes)  # type: ignore[arg-type]
        return shop.statements.usage(query)

    one = {"requests": 1, "input_tokens": 1000, "output_tokens": 1000, "amount_micro_usd": 4000}
    assert rows() == [{name: 3 * value for name, value in one.items()}]
    days = rows(bucket="day")
    assert [(row["start_s"], row["requests"]) for row in days] == [
        (NOVEMBER_S, 2),
        (NOVEMBER_S + DAY_S, 1),
    ]
    hours = [row["start_s"] for row in rows(bucket="hour")]
    assert hours == [NOVEMBER_S + 3600 * hour for hour in (0, 1, 25)]
    assert rows(bucket="month") == [{"start_s": NOVEMBER_S, **rows()[0]}]
    by_project = {row["project"]: row["requests"] for row in rows("project")}
    assert by_project == {"web": 2, None: 1}
    assert [(row["model"], row["tier"], row["requests"]) for row in rows("model", "tier")] == [
        ("m", "default", 1),
        ("m", "flex", 2),
    ]
    assert rows(project_id=web.project_id)[0]["requests"] == 2
    assert {row["key"] for row in rows("key")} == {web.key_id, bare.key_id}
    everyone = UsageQuery(NOVEMBER_S, NOVEMBER_S + DAY_S, group_by=("tenant",))
    assert [row["tenant"] for row in shop.statements.usage(everyone)] == ["acme", "beta"]


@pytest.mark.parametrize(
    "changes",
    [
        {"until_s": 0.0},
        {"bucket": "eon"},
        {"bucket": "minute", "until_s": 1e9},
        {"group_by": ("colour",)},
    ],
)
def test_what_cannot_be_added_up_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        UsageQuery(**({"from_s": 0.0, "until_s": 60.0} | changes))  # type: ignore[arg-type]


def test_an_invoice_agrees_with_the_books(shop: Shop) -> None:
    who = shop.principal()
    late_october_s = NOVEMBER_S - 1
    sell(shop, who, late_october_s, 1000)
    job = sell(shop, who, NOVEMBER_S, 1000)
    sell(shop, who, NOVEMBER_S + DAY_S, 2000, "flex")
    shop.books.pay("acme", 3000, "bank-1", NOVEMBER_S + 1)
    shop.books.refund(job, 500, "r1", NOVEMBER_S + 2)
    shop.books.credit("acme", 250, "c1", NOVEMBER_S + 3)
    now_s = NOVEMBER_S + 2 * DAY_S
    invoice = shop.statements.invoice("acme", "2026-11", now_s)
    assert [(line.tier, line.amount_micro_usd) for line in invoice.lines] == [
        ("default", 4000),
        ("flex", 7000),
    ]
    assert (invoice.opening_micro_usd, invoice.charges_micro_usd) == (4000, 11_000)
    assert invoice.due_micro_usd == 4000 + 11_000 - 3000 - 500 - 250
    account = shop.books.account("acme")
    assert account["owed_micro_usd"] - account["prepaid_micro_usd"] == invoice.due_micro_usd
    assert invoice.preliminary
    later = shop.statements.invoice("acme", "2026-12", now_s + 31 * DAY_S)
    assert (later.lines, later.opening_micro_usd) == ((), invoice.due_micro_usd)
    assert not shop.statements.invoice("acme", "2026-11", now_s + 31 * DAY_S).preliminary
    with pytest.raises(NotFoundError):
        shop.statements.invoice("nobody", "2026-11", now_s)


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "november", "2026-11-01", ""])
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(InvalidInputError, match="2026-11"):
        month_start_s(month)


INVOICE = Invoice(
    number="2026-11-0123456789abcdef",
    tenant="Acme $1 & Söhne",
    tenant_id="ten_0123456789abcdef",
    month="2026-11",
    issued_s=NOVEMBER_S + 30 * DAY_S,
    preliminary=False,
    lines=(
        InvoiceLine("web", "SmolLM2-135M-Instruct", "default", 12, 3456, 7890, 271_260),
        InvoiceLine("=HYPERLINK(1)", "m", "flex", 1, 10, 20, 1),
    ),
    opening_micro_usd=1_000_000,
    refunds_micro_usd=250,
    credits_micro_usd=0,
    payments_micro_usd=1_000_000,
)


def test_a_csv_invoice_adds_up_and_runs_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(INVOICE))))
    usage = [row for row in rows if row["kind"] == "usage"]
    assert [row["project"] for row in usage] == ["web", "'=HYPERLINK(1)"]
    total = sum(round(float(row["amount_usd"]) * 1e6) for row in usage)
    sums = {row["kind"]: row["amount_usd"] for row in rows}
    assert sums["Used this month"] == usd_text(total) == "0.271261"
    assert sums["Due"] == "0.271011"
    assert "Credits" not in sums


def test_money_is_written_exactly() -> None:
    assert [usd_text(micro) for micro in (0, 1, -1, 12_345_678)] == [
        "0.000000",
        "0.000001",
        "-0.000001",
        "12.345678",
    ]


@pytest.mark.parametrize(("n_lines", "n_pages"), [(0, 1), (2, 1), (100, 3)])
def test_a_pdf_invoice_has_as_many_pages_as_it_needs(n_lines: int, n_pages: int) -> None:
    lines = (INVOICE.lines * 50)[:n_lines]
    body = to_pdf(replace(INVOICE, lines=lines, tenant="株式会社 $x$"), "The site")
    assert body.startswith(b"%PDF-")
    assert body.rstrip().endswith(b"%%EOF")
    assert f"/Count {n_pages}".encode() in body
