"""Budgets and quotas as they are counted: each job's worst case is set aside when it is accepted.

All runs within a transaction of the caller's that has the tenant locked, so however many gateways
spend a tenant's money at once, they do it one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from marketplace.billing.limits import (
    WINDOWS_S,
    BudgetExceededError,
    QuotaExceededError,
    RateLimit,
    period_end_s,
    period_start_s,
)
from marketplace.billing.quotes import Ask
from marketplace.principal import Principal
from marketplace.store.books import prepaid
from marketplace.store.connect import upserts
from marketplace.store.prepared import Prepared
from marketplace.store.schema import (
    balances,
    budget_periods,
    budgets,
    events,
    quota_windows,
    quotas,
    reservations,
    tenants,
    usage,
)
from marketplace.store.webhooks import enqueue

_BUDGETS = sa.select(budgets).where(budgets.c.tenant_id == sa.bindparam("tenant"))
_BUDGETS = _BUDGETS.order_by(budgets.c.id)
_QUOTAS = sa.select(quotas).where(quotas.c.tenant_id == sa.bindparam("tenant"))


def _by_key(table: sa.Table) -> Any:
    keys = [column == sa.bindparam(column.name) for column in table.primary_key]
    return sa.select(table).where(*keys)


# Built once: to build a statement takes longer than to run it.
_LIMITS = Prepared(
    sa.select(
        sa.exists().where(quotas.c.tenant_id == sa.bindparam("tenant")).label("quotas"),
        sa.exists().where(budgets.c.tenant_id == sa.bindparam("tenant")).label("budgets"),
        sa.select(tenants.c.terms)
        .where(tenants.c.id == sa.bindparam("tenant"))
        .scalar_subquery()
        .label("terms"),
        sa.select(balances.c.amount_micro_usd)
        .where(balances.c.account == sa.bindparam("prepaid"))
        .scalar_subquery()
        .label("prepaid"),
    )
)
_WINDOW, _PERIOD = _by_key(quota_windows), _by_key(budget_periods)
_PUT = {table: upserts(table) for table in (quota_windows, budget_periods)}


@dataclass(frozen=True)
class Held:
    """A job's share of its tenant's limits."""

    tenant_id: str
    project_id: str | None
    key_id: str
    amount_micro_usd: int
    n_tokens: int
    created_s: float

    @property
    def scopes(self) -> dict[str, str | None]:
        """The ids by which budgets and quotas name this job's owners."""
        return {"tenant": self.tenant_id, "project": self.project_id, "key": self.key_id}


@dataclass(frozen=True)
class TenantLimits:
    """Which kinds of limits a tenant has at all, and what it has prepaid."""

    quotas: bool
    budgets: bool
    prepaid_only: bool
    prepaid_micro_usd: int


def held_for(ask: Ask, amount_micro_usd: int, now_s: float) -> Held:
    """What is to be set aside for a job."""
    who = ask.principal
    return Held(who.tenant_id, who.project_id, who.key_id, amount_micro_usd, ask.n_tokens, now_s)


def limits_of(db: sa.Connection, tenant_id: str) -> TenantLimits:
    """Looks up at once what a tenant's jobs must be checked for."""
    (row,) = _LIMITS.run(db, {"tenant": tenant_id, "prepaid": prepaid(tenant_id)})
    return TenantLimits(
        bool(row["quotas"]),
        bool(row["budgets"]),
        row["terms"] == "prepaid",
        -(row["prepaid"] or 0),
    )


def take(db: sa.Connection, held: Held) -> RateLimit:
    """Sets a job's worst case aside in every budget and quota that it falls under.

    Raises:
        QuotaExceededError: a quota has no room for it.
        BudgetExceededError: a hard budget or the prepaid account has no room for it.
    """
    limits = limits_of(db, held.tenant_id)
    rate_limit, windows = _check_quotas(db, held) if limits.quotas else (RateLimit(), [])
    periods = _check_budgets(db, held) if limits.budgets else []
    if limits.prepaid_only:
        _check_prepaid(db, held, limits.prepaid_micro_usd)
    for window in windows:
        _put(db, quota_windows, window)
    for period in periods:
        _put(db, budget_periods, period)
    return rate_limit


def quotas_left(db: sa.Connection, who: Principal, now_s: float) -> RateLimit:
    """What the quotas on that principal's jobs have left; nothing is taken from them."""
    held = Held(who.tenant_id, who.project_id, who.key_id, 0, 0, now_s)
    found = RateLimit()
    for quota in _matching(db, _QUOTAS, held):
        for name, width_s in WINDOWS_S.items():
            window = _window(db, quota, name, now_s)
            reset_s = window["start_s"] + width_s - now_s
            for kind in ("requests", "tokens"):
                limit = quota[f"{kind}_per_{name}"]
                if limit is not None:
                    found = found.tightened(kind, limit, limit - window[kind], reset_s)
    return found


def give_back(
    db: sa.Connection, held: Held, limits: TenantLimits, used: tuple[int, int], now_s: float
) -> None:
    """The job ended: what it did not use is free again, what it cost is spent.

    `used`: tokens and micro-USD. Called when the job's reservation is deleted already, and before
    its bill is written.
    """
    used_tokens, spent = used
    for budget in _matching(db, _BUDGETS, held) if limits.budgets else ():
        period = _period(db, budget, held.created_s, held.amount_micro_usd)
        period["reserved_micro_usd"] -= held.amount_micro_usd
        period["spent_micro_usd"] += spent
        _alert(db, budget, period, now_s)
        _put(db, budget_periods, period)
    for quota in _matching(db, _QUOTAS, held) if limits.quotas else ():
        for name, width_s in WINDOWS_S.items():
            window = _window(db, quota, name, held.created_s)
            # What was set aside in a window that is over is of no account any more.
            if window["start_s"] == held.created_s // width_s * width_s:
                window["tokens"] = max(0, window["tokens"] - held.n_tokens + used_tokens)
                _put(db, quota_windows, window)


def budget_states(db: sa.Connection, tenant_id: str, now_s: float) -> list[dict[str, Any]]:
    """A tenant's budgets with what is spent and set aside in the present period."""
    found = []
    for row in db.execute(_BUDGETS, {"tenant": tenant_id}).mappings():
        period = _period(db, row, now_s)
        found.append({**row, **period, "alerts_percent": _percents(row)})
    return found


def _check_quotas(db: sa.Connection, held: Held) -> tuple[RateLimit, list[dict[str, Any]]]:
    rate_limit, windows = RateLimit(), []
    refusal: tuple[str, float] | None = None
    for quota in _matching(db, _QUOTAS, held):
        whose = f"the {quota['scope']}'s quota of"
        limit = quota["concurrent_jobs"]
        if limit is not None and _n_open(db, quota) >= limit:
            refusal = refusal or (f"{whose} {limit} jobs at once is used up", 1.0)
        for name, width_s in WINDOWS_S.items():
            window = _window(db, quota, name, held.created_s)
            reset_s = window["start_s"] + width_s - held.created_s
            for kind, needed in (("requests", 1), ("tokens", held.n_tokens)):
                limit = quota[f"{kind}_per_{name}"]
                if limit is None:
                    continue
                left = limit - window[kind]
                if needed > left:
                    text = f"{whose} {limit} {kind} a {name} has {max(left, 0)} left"
                    text += f", {needed} are needed"
                    refusal = refusal or (text, reset_s)
                rate_limit = rate_limit.tightened(
                    kind, limit, left if needed > left else left - needed, reset_s
                )
                window[kind] += needed
            windows.append(window)
    if refusal is not None:
        raise QuotaExceededError(
            refusal[0],
            remedy="wait, ask for fewer tokens, or have the quota raised",
            retry_after_s=refusal[1],
            rate_limit=rate_limit,
        )
    return rate_limit, windows


def _check_budgets(db: sa.Connection, held: Held) -> list[dict[str, Any]]:
    periods = []
    for budget in _matching(db, _BUDGETS, held):
        period = _period(db, budget, held.created_s)
        used = period["spent_micro_usd"] + period["reserved_micro_usd"]
        left = budget["limit_micro_usd"] - used
        if budget["hard"] and held.amount_micro_usd > left:
            end_s = period_end_s(budget["period"], held.created_s)
            # Money that is only set aside may be free again when other jobs end.
            waits = held.amount_micro_usd <= left + period["reserved_micro_usd"]
            raise BudgetExceededError(
                f"the {budget['scope']}'s budget ({budget['period']}) has {max(left, 0)} micro-USD "
                f"left, this request can cost {held.amount_micro_usd}",
                remedy="ask for fewer tokens, or have the budget raised"
                + (f"; the next period begins at {end_s:.0f}" if end_s < 1e12 else ""),
                retry_after_s=5.0 if waits else None,
            )
        period["reserved_micro_usd"] += held.amount_micro_usd
        periods.append(period)
    return periods


def _check_prepaid(db: sa.Connection, held: Held, prepaid_micro_usd: int) -> None:
    reserved = sa.select(sa.func.coalesce(sa.func.sum(reservations.c.amount_micro_usd), 0))
    reserved = reserved.where(reservations.c.tenant_id == held.tenant_id)
    n_reserved = int(db.execute(reserved).scalar_one())
    left = prepaid_micro_usd - n_reserved
    if held.amount_micro_usd > left:
        raise BudgetExceededError(
            f"the prepaid account has {max(left, 0)} micro-USD left, this request can cost "
            f"{held.amount_micro_usd}",
            remedy="pay money in, or ask for fewer tokens",
            retry_after_s=5.0 if held.amount_micro_usd <= left + n_reserved else None,
        )


def _matching(db: sa.Connection, query: Any, held: Held) -> Sequence[Any]:
    rows = db.execute(query, {"tenant": held.tenant_id}).mappings().all()
    return [row for row in rows if held.scopes[row["scope"]] == row["scope_id"]]


def _n_open(db: sa.Connection, quota: Any) -> int:
    query = sa.select(sa.func.count()).select_from(reservations)
    query = query.where(_owner(reservations, quota))
    return int(db.execute(query).scalar_one())


def _window(db: sa.Connection, quota: Any, name: str, time_s: float) -> dict[str, Any]:
    start_s = float(time_s // WINDOWS_S[name] * WINDOWS_S[name])
    key = {"scope": quota["scope"], "scope_id": quota["scope_id"], "window": name}
    row = db.execute(_WINDOW, key).mappings().first()
    # A clock that was set back must not open a window anew.
    if row is None or row["start_s"] < start_s:
        return key | {"start_s": start_s, "requests": 0, "tokens": 0}
    return dict(row)


def _period(db: sa.Connection, budget: Any, time_s: float, ending: int = 0) -> dict[str, Any]:
    """The row of the budget's period; counted from the bills and reservations if it is new.

    `ending`: what was reserved for a job whose reservation was deleted just now, micro-USD.
    """
    start_s = period_start_s(budget["period"], time_s)
    key = {"budget_id": budget["id"], "start_s": start_s}
    row = db.execute(_PERIOD, key).mappings().first()
    if row is not None:
        return dict(row)
    end_s = period_end_s(budget["period"], time_s)
    sums = []
    for table in (usage, reservations):
        query = sa.select(sa.func.coalesce(sa.func.sum(table.c.amount_micro_usd), 0)).where(
            _owner(table, budget), table.c.created_s >= start_s, table.c.created_s < end_s
        )
        sums.append(int(db.execute(query).scalar_one()))
    spent, reserved = sums
    found = {"spent_micro_usd": spent, "reserved_micro_usd": reserved + ending}
    found["alerted_percent"] = 0
    return key | found


def _alert(db: sa.Connection, budget: Any, period: dict[str, Any], now_s: float) -> None:
    spent, limit = period["spent_micro_usd"], budget["limit_micro_usd"]
    reached = [percent for percent in _percents(budget) if 100 * spent >= percent * limit]
    if not reached or reached[-1] <= period["alerted_percent"]:
        return
    period["alerted_percent"] = reached[-1]
    text = (
        f"budget {budget['id']} of {budget['scope']} {budget['scope_id']} ({budget['period']}): "
        f"{reached[-1]} % reached, {spent} of {limit} micro-USD spent"
    )
    row = {"kind": "budget.alert", "message": text, "time_s": now_s, "severity": "warning"}
    db.execute(sa.insert(events).values(row))
    told = {name: budget[name] for name in ("scope", "scope_id", "period", "limit_micro_usd")}
    told |= {"id": budget["id"], "spent_micro_usd": spent, "reached_percent": reached[-1]}
    subject = f"{budget['id']}/{period['start_s']:.0f}/{reached[-1]}"
    enqueue(db, budget["tenant_id"], "budget.alert", subject, told, now_s)


def _percents(budget: Any) -> list[int]:
    return [int(word) for word in budget["alerts_percent"].split()]


def _owner(table: sa.Table, limit: Any) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.tenant_id == limit["tenant_id"],
        table.c[f"{limit['scope']}_id"] == limit["scope_id"],
    )


def _put(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    db.execute(_PUT[table][db.dialect.name], row)
