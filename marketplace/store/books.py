"""The books: double entry, append-only. Debits are above zero, credits below.

Accounts: `tenant:ID:receivable` (what the tenant owes), `tenant:ID:prepaid` (what it has paid
ahead, below zero), and the site's `site:cash`, `site:revenue`, `site:refunds`, `site:credits`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.store.accounts import tenant_id_of
from marketplace.store.connect import reading, upserts, writing
from marketplace.store.prepared import Prepared
from marketplace.store.schema import (
    balances,
    ledger_entries,
    ledger_transactions,
    tenants,
    usage,
)

CASH, REVENUE, REFUNDS, CREDITS = "site:cash", "site:revenue", "site:refunds", "site:credits"
_MAX_AMOUNT = 10**15

# Built once: to build a statement takes longer than to run it.
_ADD_ENTRY = Prepared(sa.insert(ledger_entries), ("transaction_id", "account", "amount_micro_usd"))
_ADD_TRANSACTION = Prepared(
    sa.insert(ledger_transactions), ("id", "kind", "tenant_id", "time_s", "memo")
)
_BALANCE = Prepared(
    sa.select(balances.c.amount_micro_usd).where(balances.c.account == sa.bindparam("account"))
)
_LOCK_TENANT = Prepared(
    sa.select(tenants.c.id)
    .where(tenants.c.id == sa.bindparam("tenant"))
    .with_for_update(key_share=True)
)
_ADD_TO_BALANCE = Prepared(
    upserts(balances, add="amount_micro_usd"), ("account", "amount_micro_usd")
)


@dataclass(frozen=True)
class Posting:
    """A transaction to be written: its entries sum to zero."""

    id: str
    kind: str  # charge | payment | refund | credit
    tenant_id: str
    memo: str
    entries: dict[str, int]


def receivable(tenant_id: str) -> str:
    """The account of what the tenant owes."""
    return f"tenant:{tenant_id}:receivable"


def prepaid(tenant_id: str) -> str:
    """The account of what the tenant has paid ahead."""
    return f"tenant:{tenant_id}:prepaid"


def lock_tenant(db: sa.Connection, tenant_id: str) -> None:
    """Makes all else that spends or limits the tenant's money wait until the transaction ends."""
    if db.dialect.name != "sqlite":  # where whoever writes is alone anyway
        _LOCK_TENANT.run(db, {"tenant": tenant_id})


def balance(db: sa.Connection, account: str) -> int:
    """An account's balance, micro-USD."""
    row = _BALANCE.first(db, {"account": account})
    return 0 if row is None else int(row["amount_micro_usd"])


def post(db: sa.Connection, posting: Posting, now_s: float) -> None:
    """Writes a transaction. The caller has locked the tenant.

    Raises:
        sqlalchemy.exc.IntegrityError: there is one of that id already.
    """
    entries = {account: amount for account, amount in posting.entries.items() if amount}
    if not entries:
        return
    # The site's accounts last, always in the same order: no two writers wait for each other.
    names = sorted(entries, key=lambda name: (name.startswith("site:"), name))
    rows = [{"account": name, "amount_micro_usd": entries[name]} for name in names]
    for entry in rows:
        _ADD_ENTRY.run(db, entry | {"transaction_id": posting.id})
    for entry in rows:
        _ADD_TO_BALANCE.run(db, entry)
    row = {
        "id": posting.id,
        "kind": posting.kind,
        "tenant_id": posting.tenant_id,
        "time_s": now_s,
        "memo": posting.memo,
    }
    _ADD_TRANSACTION.run(db, row)


def charge(
    db: sa.Connection, job: tuple[str, str], amount: int, prepaid_micro_usd: int, now_s: float
) -> None:
    """Books a job, given by its tenant's id and its own.

    It is paid from `prepaid_micro_usd`, the tenant's prepaid money, as far as that goes; the rest
    is owed.
    """
    tenant_id, job_id = job
    paid = min(amount, max(0, prepaid_micro_usd))
    entries = {
        prepaid(tenant_id): paid,
        receivable(tenant_id): amount - paid,
        REVENUE: -amount,
    }
    post(db, Posting(f"job:{job_id}", "charge", tenant_id, f"job {job_id}", entries), now_s)


class Books:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def pay(self, tenant: str, amount: int, reference: str, now_s: float) -> dict[str, Any]:
        """Books a payment of the tenant's. The same reference again changes nothing.

        Raises:
            NotFoundError: there is no such tenant.
            InvalidInputError: the amount is not above zero, or the reference is another payment's.
        """
        return self._receive(tenant, amount, ("payment", CASH, reference), now_s)

    def credit(self, tenant: str, amount: int, reference: str, now_s: float) -> dict[str, Any]:
        """Gives the tenant money to spend, at the site's cost. Otherwise as pay()."""
        return self._receive(tenant, amount, ("credit", CREDITS, reference), now_s)

    def refund(
        self, job_id: str, amount: int | None, reference: str, now_s: float
    ) -> dict[str, Any]:
        """Gives back what a job cost, or a part of it. Otherwise as pay().

        Raises:
            NotFoundError: no such job was billed.
            InvalidInputError: more than is left of its price, or the reference is another's.
        """
        with writing(self._engine) as db:
            query = sa.select(usage.c.tenant_id, usage.c.amount_micro_usd)
            billed = db.execute(query.where(usage.c.job_id == job_id)).first()
            if billed is None:
                raise NotFoundError(f"job {job_id!r} was not billed")
            lock_tenant(db, billed.tenant_id)
            memo = f"job {job_id}"
            entry = _checked_id("refund", reference)
            known = _find(db, entry)
            if known is not None:
                return _same(known, billed.tenant_id, amount, memo)
            left = billed.amount_micro_usd - _refunded(db, memo)
            given = left if amount is None else amount
            if not 0 < given <= left:
                raise InvalidInputError("amount_micro_usd", f"{left} are left to refund")
            entries = _to_tenant(db, billed.tenant_id, given) | {REFUNDS: given}
            post(db, Posting(entry, "refund", billed.tenant_id, memo, entries), now_s)
            return _found(db, entry)

    def account(self, tenant: str) -> dict[str, Any]:
        """What a tenant owes and has prepaid.

        Raises:
            NotFoundError: there is no such tenant.
        """
        with reading(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            return {
                "tenant_id": tenant_id,
                "owed_micro_usd": balance(db, receivable(tenant_id)),
                "prepaid_micro_usd": -balance(db, prepaid(tenant_id)),
            }

    def transactions(
        self, tenant: str | None, from_s: float, until_s: float, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Transactions with their entries, oldest first.

        Raises:
            NotFoundError: there is no such tenant.
        """
        query = sa.select(ledger_transactions).where(
            ledger_transactions.c.time_s >= from_s, ledger_transactions.c.time_s < until_s
        )
        query = query.order_by(ledger_transactions.c.time_s, ledger_transactions.c.id).limit(limit)
        with reading(self._engine) as db:
            if tenant is not None:
                tenant_id = tenant_id_of(db, tenant)
                query = query.where(ledger_transactions.c.tenant_id == tenant_id)
            rows = [dict(row) for row in db.execute(query).mappings()]
            found = {row["id"]: row | {"entries": []} for row in rows}
            entries = sa.select(ledger_entries).order_by(ledger_entries.c.seq)
            entries = entries.where(ledger_entries.c.transaction_id.in_(list(found)))
            for entry in db.execute(entries).mappings():
                shown = {"account": entry["account"], "amount_micro_usd": entry["amount_micro_usd"]}
                found[entry["transaction_id"]]["entries"].append(shown)
        return list(found.values())

    def balances(self) -> dict[str, int]:
        """Every account's balance as it is kept."""
        with reading(self._engine) as db:
            return {row.account: row.amount_micro_usd for row in db.execute(sa.select(balances))}

    def check(self) -> dict[str, Any]:
        """Reads all the books anew and tells what does not agree; nothing should."""
        with reading(self._engine) as db:
            entries = sa.select(
                ledger_entries.c.transaction_id,
                ledger_entries.c.account,
                ledger_entries.c.amount_micro_usd,
            )
            log = [tuple(row) for row in db.execute(entries.order_by(ledger_entries.c.seq))]
            kept = {row.account: row.amount_micro_usd for row in db.execute(sa.select(balances))}
            billed = {
                f"job:{row.job_id}": row.amount_micro_usd
                for row in db.execute(sa.select(usage).where(usage.c.tier.is_not(None)))
            }
        replayed, problems = replay(log)
        for account in sorted(replayed.keys() | kept.keys()):
            ours, theirs = replayed.get(account, 0), kept.get(account, 0)
            if ours != theirs:
                problems.append(f"{account}: the log gives {ours}, the balance is {theirs}")
        charged = {one: -amount for one, account, amount in log if account == REVENUE}
        for job in sorted(billed.keys() | charged.keys()):
            if billed.get(job, 0) != charged.get(job, 0):
                problems.append(f"{job}: billed {billed.get(job, 0)}, booked {charged.get(job, 0)}")
        return {"entries": len(log), "balances": replayed, "problems": problems}

    def _receive(
        self, tenant: str, amount: int, source: tuple[str, str, str], now_s: float
    ) -> dict[str, Any]:
        kind, account, reference = source
        if not 0 < amount <= _MAX_AMOUNT:
            raise InvalidInputError("amount_micro_usd", f"must be between 1 and {_MAX_AMOUNT}")
        with writing(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            lock_tenant(db, tenant_id)
            entry = _checked_id(kind, reference)
            known = _find(db, entry)
            if known is not None:
                return _same(known, tenant_id, amount, reference)
            entries = _to_tenant(db, tenant_id, amount) | {account: amount}
            post(db, Posting(entry, kind, tenant_id, reference, entries), now_s)
            return _found(db, entry)


def replay(log: Iterable[tuple[str, str, int]]) -> tuple[dict[str, int], list[str]]:
    """Balances from entries (transaction, account, amount), and what is wrong with these."""
    found: dict[str, int] = {}
    sums: dict[str, int] = {}
    for transaction, account, amount in log:
        found[account] = found.get(account, 0) + amount
        sums[transaction] = sums.get(transaction, 0) + amount
    return found, [f"{one}: its entries sum to {left}" for one, left in sums.items() if left]


def _to_tenant(db: sa.Connection, tenant_id: str, amount: int) -> dict[str, int]:
    """Credits the tenant: what it owes first, the rest is prepaid."""
    owed = min(amount, max(0, balance(db, receivable(tenant_id))))
    return {receivable(tenant_id): -owed, prepaid(tenant_id): owed - amount}


def _refunded(db: sa.Connection, memo: str) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(ledger_entries.c.amount_micro_usd), 0))
    query = query.join_from(ledger_entries, ledger_transactions)
    query = query.where(
        ledger_transactions.c.kind == "refund",
        ledger_transactions.c.memo == memo,
        ledger_entries.c.account == REFUNDS,
    )
    return int(db.execute(query).scalar_one())


def _checked_id(kind: str, reference: str) -> str:
    if not 0 < len(reference) <= 64 or not reference.isprintable():
        raise InvalidInputError("reference", "must be a printable text of 1 to 64 characters")
    return f"{kind}:{reference}"


def _find(db: sa.Connection, entry: str) -> dict[str, Any] | None:
    query = sa.select(ledger_transactions).where(ledger_transactions.c.id == entry)
    if db.execute(query).first() is None:
        return None
    return _found(db, entry)


def _found(db: sa.Connection, entry: str) -> dict[str, Any]:
    query = sa.select(ledger_transactions).where(ledger_transactions.c.id == entry)
    row = dict(db.execute(query).mappings().one())
    amounts = sa.select(sa.func.sum(ledger_entries.c.amount_micro_usd)).where(
        ledger_entries.c.transaction_id == entry, ledger_entries.c.amount_micro_usd > 0
    )
    return row | {"amount_micro_usd": int(db.execute(amounts).scalar_one())}


def _same(known: dict[str, Any], tenant_id: str, amount: int | None, memo: str) -> dict[str, Any]:
    differs = amount is not None and amount != known["amount_micro_usd"]
    if differs or known["tenant_id"] != tenant_id or known["memo"] != memo:
        raise InvalidInputError("reference", "is that of another transaction")
    return known
