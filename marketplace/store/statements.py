"""What tenants used and owe: by time, model, tier, project and key, and a month at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from airan.core.errors import InvalidInputError
from marketplace.billing.invoice import Invoice, InvoiceLine
from marketplace.billing.limits import period_end_s, period_start_s
from marketplace.store.accounts import tenant_id_of
from marketplace.store.books import prepaid, receivable
from marketplace.store.connect import reading
from marketplace.store.schema import (
    keys,
    ledger_entries,
    ledger_transactions,
    projects,
    tenants,
    usage,
)

BUCKETS_S = {"minute": 60, "hour": 3600, "day": 86_400, "month": 86_400}
GROUPS = ("tenant", "project", "key", "model", "tier")
_MAX_BUCKETS = 20_000


@dataclass(frozen=True)
class UsageQuery:
    """Which bills to add up, and by what."""

    from_s: float
    until_s: float
    tenant: str | None = None
    """Name or id; None: all."""
    project_id: str | None = None
    bucket: str | None = None
    """minute, hour, day or month, in UTC; None: the whole time in one."""
    group_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.until_s <= self.from_s:
            raise InvalidInputError("until", "must be after the beginning")
        if self.bucket is not None:
            if self.bucket not in BUCKETS_S:
                raise InvalidInputError("bucket", f"must be one of {', '.join(BUCKETS_S)}")
            if (self.until_s - self.from_s) / BUCKETS_S[self.bucket] > _MAX_BUCKETS:
                raise InvalidInputError("bucket", f"gives more than {_MAX_BUCKETS} rows")
        if unknown := set(self.group_by) - set(GROUPS):
            raise InvalidInputError("group_by", f"must be some of {GROUPS}, got {sorted(unknown)}")


class Statements:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def usage(self, query: UsageQuery) -> list[dict[str, Any]]:
        """Requests, tokens and money, oldest first; a row for each that has any.

        Raises:
            NotFoundError: there is no such tenant.
        """
        columns = [_GROUP_COLUMNS[name].label(name) for name in query.group_by]
        if query.bucket is not None:
            width_s = BUCKETS_S[query.bucket]
            n_before: Any = usage.c.created_s / width_s
            if self._engine.dialect.name == "postgresql":  # whose cast rounds
                n_before = sa.func.floor(n_before)
            columns.insert(0, (n_before.cast(sa.BigInteger) * width_s).label("start_s"))
        asked = sa.select(*columns, *_SUMS).select_from(
            usage.join(tenants)
            .join(keys, keys.c.id == usage.c.key_id)
            .outerjoin(projects, projects.c.id == usage.c.project_id)
        )
        asked = asked.where(usage.c.created_s >= query.from_s, usage.c.created_s < query.until_s)
        with reading(self._engine) as db:
            if query.tenant is not None:
                asked = asked.where(usage.c.tenant_id == tenant_id_of(db, query.tenant))
            if query.project_id is not None:
                asked = asked.where(usage.c.project_id == query.project_id)
            if columns:
                names: list[Any] = [sa.column(column.name) for column in columns]
                asked = asked.group_by(*names).order_by(*names)
            rows = [_plain(row) for row in db.execute(asked).mappings()]
        rows = [row for row in rows if row["requests"]]
        return _by_month(rows) if query.bucket == "month" else rows

    def invoice(self, tenant: str, month: str, now_s: float) -> Invoice:
        """The tenant's bill for a month such as 2026-11; preliminary while the month runs.

        Raises:
            NotFoundError: there is no such tenant.
        """
        from_s = month_start_s(month)
        until_s = period_end_s("month", from_s)
        with reading(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            name = db.execute(sa.select(tenants.c.name).where(tenants.c.id == tenant_id)).scalar()
            kinds = dict.fromkeys(("charge", "payment", "refund", "credit"), 0)
            kinds |= _moved(db, tenant_id, from_s, until_s)
            opening = _standing(db, tenant_id, from_s)
        rows = self.usage(
            UsageQuery(from_s, until_s, tenant_id, group_by=("project", "model", "tier"))
        )
        lines = tuple(
            InvoiceLine(
                row["project"] or "",
                row["model"],
                row["tier"] or "default",
                row["requests"],
                row["input_tokens"],
                row["output_tokens"],
                row["amount_micro_usd"],
            )
            for row in rows
        )
        return Invoice(
            number=f"{month}-{tenant_id.removeprefix('ten_')}",
            tenant=str(name),
            tenant_id=tenant_id,
            month=month,
            issued_s=now_s,
            preliminary=now_s < until_s,
            lines=lines,
            opening_micro_usd=opening,
            refunds_micro_usd=-kinds["refund"],
            credits_micro_usd=-kinds["credit"],
            payments_micro_usd=-kinds["payment"],
        )


def month_start_s(month: str) -> float:
    """2026-11 -> the Unix time at which it begins, UTC.

    Raises:
        InvalidInputError: it is no month.
    """
    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidInputError("month", f"must be such as 2026-11, got {month!r}") from error
    if start.strftime("%Y-%m") != month:
        raise InvalidInputError("month", f"must be such as 2026-11, got {month!r}")
    return start.timestamp()


_GROUP_COLUMNS: dict[str, Any] = {
    "tenant": tenants.c.name,
    "project": projects.c.name,
    "key": usage.c.key_id,
    "model": usage.c.model,
    "tier": usage.c.tier,
}
_SUMMED = ("requests", "input_tokens", "output_tokens", "amount_micro_usd")
_SUMS = [
    sa.func.count().label("requests"),
    *(sa.func.sum(usage.c[name]).label(name) for name in _SUMMED[1:]),
]


def _plain(row: Any) -> dict[str, Any]:
    # PostgreSQL's sums are decimals.
    return {name: int(row[name] or 0) if name in _SUMMED else row[name] for name in row}


def _by_month(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for daily in rows:
        row = daily | {"start_s": int(period_start_s("month", daily["start_s"]))}
        known = found.setdefault(
            tuple(value for name, value in row.items() if name not in _SUMMED),
            row | dict.fromkeys(_SUMMED, 0),
        )
        for name in _SUMMED:
            known[name] += row[name]
    return list(found.values())


def _moved(db: sa.Connection, tenant_id: str, from_s: float, until_s: float) -> dict[str, int]:
    """What each kind of transaction added to what the tenant owes, net of what it has prepaid."""
    query = (
        sa.select(ledger_transactions.c.kind, sa.func.sum(ledger_entries.c.amount_micro_usd))
        .join_from(ledger_entries, ledger_transactions)
        .where(
            ledger_entries.c.account.in_([receivable(tenant_id), prepaid(tenant_id)]),
            ledger_transactions.c.time_s >= from_s,
            ledger_transactions.c.time_s < until_s,
        )
        .group_by(ledger_transactions.c.kind)
    )
    return {kind: int(total) for kind, total in db.execute(query)}


def _standing(db: sa.Connection, tenant_id: str, time_s: float) -> int:
    return sum(_moved(db, tenant_id, 0.0, time_s).values())
