"""From a job's acceptance to its bill: reserve once, settle once, each in one transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from airan.core.errors import NotFoundError
from marketplace.billing.limits import QUOTA_LIMITS, BudgetSpec, QuotaSpec, RateLimit
from marketplace.billing.quotes import Ask, Reservation
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.accounts import new_id, tenant_id_of
from marketplace.store.books import charge, lock_tenant
from marketplace.store.connect import reading, writing
from marketplace.store.limits import (
    Held,
    budget_states,
    give_back,
    held_for,
    limits_of,
    quotas_left,
    take,
)
from marketplace.store.prepared import Prepared
from marketplace.store.presence import check_seated
from marketplace.store.schema import (
    budget_periods,
    budgets,
    jobs,
    keys,
    projects,
    quotas,
    reservations,
    tenants,
    usage,
)

_NEW = {"request": None, "output_tokens": 0, "preemptions": 0, "tokens_lost": 0}
_NEW |= {"gateway_id": None}
_TIMES = ("state", "created_s", "updated_s")
# Built once: to build a statement takes longer than to run it.
_ADD_JOB = Prepared(
    sa.insert(jobs),
    (*("id", "kind", "tenant_id", "key_id", "model", "input_tokens"), *_TIMES, *_NEW),
)
_ADD_RESERVATION = Prepared(sa.insert(reservations), reservations.c.keys())
_ADD_USAGE = Prepared(sa.insert(usage), usage.c.keys())
_END_RESERVATION = Prepared(
    sa.delete(reservations)
    .where(reservations.c.job_id == sa.bindparam("job"))
    .returning(*reservations.c)
)


class Billing:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def accept(self, job: dict[str, Any], ask: Ask, price: Price, now_s: float) -> Reservation:
        """Stores a new job and sets aside what it can cost, or does neither.

        `job`: id, kind, tenant_id, key_id, model, request, input_tokens, gateway_id.

        Raises:
            QuotaExceededError, BudgetExceededError: a limit refuses it.
        """
        with writing(self._engine) as db:
            return reserve(db, job, ask, price, now_s)

    def accept_again(
        self, job: dict[str, Any], ask: Ask, price: Price, now_s: float
    ) -> Reservation:
        """accept(), after one of which nobody knows whether it was done.

        Raises:
            QuotaExceededError, BudgetExceededError: a limit refuses it.
        """
        mine = (jobs.c.id == job["id"], jobs.c.key_id == job["key_id"], jobs.c.created_s == now_s)
        with writing(self._engine) as db:
            if db.execute(sa.select(jobs.c.id).where(*mine)).first() is None:
                return reserve(db, job, ask, price, now_s)
        amount = price.amount_micro_usd(ask.n_prompt, ask.max_tokens)
        return Reservation(job["id"], price, ask.tier, amount, ask.n_tokens)

    def quotas_left(self, who: Principal, now_s: float) -> RateLimit:
        """What the quotas on that principal's jobs have left."""
        with reading(self._engine) as db:
            return quotas_left(db, who, now_s)

    def limited_tenants(self) -> frozenset[str]:
        """Tenants that have a budget, a quota or a prepaid account."""
        queries = (
            sa.select(budgets.c.tenant_id),
            sa.select(quotas.c.tenant_id),
            sa.select(tenants.c.id).where(tenants.c.terms == "prepaid"),
        )
        with reading(self._engine) as db:
            return frozenset(db.execute(sa.union(*queries)).scalars())

    def set_budget(self, tenant: str, spec: BudgetSpec, now_s: float) -> dict[str, Any]:
        """Adds a budget to something of that tenant's.

        Raises:
            NotFoundError: there is no such tenant, or it has no such project or key.
        """
        with writing(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            scope_id = _checked_scope(db, tenant_id, spec.scope, spec.scope_id)
            row = {
                "id": new_id("budget"),
                "tenant_id": tenant_id,
                "scope": spec.scope,
                "scope_id": scope_id,
                "period": spec.period,
                "limit_micro_usd": spec.limit_micro_usd,
                "hard": spec.hard,
                "alerts_percent": " ".join(map(str, spec.alerts_percent)),
                "created_s": now_s,
            }
            db.execute(sa.insert(budgets).values(row))
        return row | {"alerts_percent": list(spec.alerts_percent)}

    def drop_budget(self, budget_id: str) -> None:
        """Ends a budget.

        Raises:
            NotFoundError: there is no such budget.
        """
        with writing(self._engine) as db:
            db.execute(sa.delete(budget_periods).where(budget_periods.c.budget_id == budget_id))
            if not db.execute(sa.delete(budgets).where(budgets.c.id == budget_id)).rowcount:
                raise NotFoundError(f"budget {budget_id!r} does not exist")

    def budgets(self, tenant: str, now_s: float) -> list[dict[str, Any]]:
        """A tenant's budgets with what is spent and set aside now.

        Raises:
            NotFoundError: there is no such tenant.
        """
        with reading(self._engine) as db:
            return budget_states(db, tenant_id_of(db, tenant), now_s)

    def set_quota(self, tenant: str, spec: QuotaSpec) -> dict[str, Any]:
        """Sets the limits of something of that tenant's; with no limit at all, removes them.

        Raises:
            NotFoundError: there is no such tenant, or it has no such project or key.
        """
        with writing(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            scope_id = _checked_scope(db, tenant_id, spec.scope, spec.scope_id)
            row = asdict(spec) | {"tenant_id": tenant_id, "scope_id": scope_id}
            same = (quotas.c.scope == spec.scope, quotas.c.scope_id == scope_id)
            db.execute(sa.delete(quotas).where(*same))
            if any(row[name] is not None for name in QUOTA_LIMITS):
                db.execute(sa.insert(quotas).values(row))
        return row

    def quotas(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's quotas.

        Raises:
            NotFoundError: there is no such tenant.
        """
        with reading(self._engine) as db:
            query = sa.select(quotas).where(quotas.c.tenant_id == tenant_id_of(db, tenant))
            rows = db.execute(query.order_by(quotas.c.scope, quotas.c.scope_id)).mappings()
            return [dict(row) for row in rows]


def reserve(
    db: sa.Connection, job: dict[str, Any], ask: Ask, price: Price, now_s: float
) -> Reservation:
    """Stores a new job and sets aside what it can cost, within the caller's transaction.

    Raises:
        QuotaExceededError, BudgetExceededError: a limit refuses it.
        UnavailableError: the job's gateway was given up.
    """
    check_seated(db, job.get("gateway_id"))
    amount = price.amount_micro_usd(ask.n_prompt, ask.max_tokens)
    held = held_for(ask, amount, now_s)
    row = {
        "job_id": job["id"],
        "tenant_id": held.tenant_id,
        "project_id": held.project_id,
        "key_id": held.key_id,
        "tier": ask.tier,
        "input_micro_usd_per_1k": price.input_micro_usd_per_1k,
        "output_micro_usd_per_1k": price.output_micro_usd_per_1k,
        "amount_micro_usd": amount,
        "n_tokens": held.n_tokens,
        "created_s": now_s,
    }
    times = {"state": "queued", "created_s": now_s, "updated_s": now_s}
    lock_tenant(db, held.tenant_id)
    rate_limit = take(db, held)
    _ADD_JOB.run(db, _NEW | job | times)
    _ADD_RESERVATION.run(db, row)
    return Reservation(job["id"], price, ask.tier, amount, held.n_tokens, rate_limit)


def settle(
    db: sa.Connection, job: dict[str, Any], tokens: tuple[int, int] | None, price: Price
) -> None:
    """Bills a job that has just ended, at the price it was quoted; `tokens` None: for nothing.

    `job`: id, tenant_id, key_id, model and updated_s. `price` is for a job that was accepted
    before there were quotes. The caller has just ended the job, which nobody can do twice.
    """
    tenant_id, now_s = job["tenant_id"], job["updated_s"]
    if tokens is None:
        release(db, job["id"], tenant_id, now_s)
        return
    lock_tenant(db, tenant_id)
    limits = limits_of(db, tenant_id)
    row = _END_RESERVATION.first(db, {"job": job["id"]})
    quoted: dict[str, Any] = {
        "tier": "default",
        "input_micro_usd_per_1k": price.input_micro_usd_per_1k,
        "output_micro_usd_per_1k": price.output_micro_usd_per_1k,
        "project_id": None,
    }
    if row is not None:
        quoted = {name: row[name] for name in quoted}
        # What an invocation costs by itself is its function's, which has that price for good.
        price = Price(
            row["input_micro_usd_per_1k"],
            row["output_micro_usd_per_1k"],
            price.per_request_micro_usd,
        )
    amount = price.amount_micro_usd(*tokens)
    if row is not None:
        give_back(db, _held(row), limits, (sum(tokens), amount), now_s)
    bill = {
        "job_id": job["id"],
        "tenant_id": tenant_id,
        "key_id": job["key_id"],
        "model": job["model"],
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "amount_micro_usd": amount,
        "created_s": now_s,
    }
    _ADD_USAGE.run(db, bill | quoted)
    charge(db, (tenant_id, job["id"]), amount, limits.prepaid_micro_usd, now_s)


def release(db: sa.Connection, job_id: str, tenant_id: str, now_s: float) -> None:
    """A job ended that is not billed: what was set aside for it is free again."""
    lock_tenant(db, tenant_id)
    row = _END_RESERVATION.first(db, {"job": job_id})
    if row is not None:
        give_back(db, _held(row), limits_of(db, tenant_id), (0, 0), now_s)


def _held(row: Any) -> Held:
    return Held(
        row["tenant_id"],
        row["project_id"],
        row["key_id"],
        row["amount_micro_usd"],
        row["n_tokens"],
        row["created_s"],
    )


def _checked_scope(db: sa.Connection, tenant_id: str, scope: str, scope_id: str) -> str:
    if scope == "tenant":
        return tenant_id
    table = {"project": projects, "key": keys}[scope]
    query = sa.select(table.c.id).where(table.c.id == scope_id, table.c.tenant_id == tenant_id)
    if db.execute(query).first() is None:
        raise NotFoundError(f"{scope} {scope_id!r} does not exist")
    return scope_id
