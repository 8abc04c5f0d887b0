"""Budgets and quotas: what they let through, and that nobody gets past them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.billing.limits import (
    BudgetExceededError,
    BudgetSpec,
    QuotaExceededError,
    QuotaSpec,
    duration_text,
    period_end_s,
    period_start_s,
)
from marketplace.money import Price
from marketplace.principal import Principal
from marketplace.store.schema import jobs, reservations
from tests.marketplace.books import NOW_S, PRICE, Shop


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    shop.tenant()
    yield shop
    assert shop.books.check()["problems"] == []
    shop.close()


def budget(shop: Shop, limit: int, **changes: object) -> str:
    values = {"scope": "tenant", "scope_id": "", "period": "month", "limit_micro_usd": limit}
    made = shop.billing.set_budget("acme", BudgetSpec(**(values | changes)), NOW_S)  # type: ignore[arg-type]
    return str(made["id"])


def state(shop: Shop, now_s: float = NOW_S) -> tuple[int, int]:
    (row,) = shop.billing.budgets("acme", now_s)
    return row["spent_micro_usd"], row["reserved_micro_usd"]


def test_what_a_job_can_cost_is_set_aside_until_it_ends(shop: Shop) -> None:
    who = shop.principal()
    budget(shop, 10_000)
    first = shop.accept(who, 1000, 2000)
    assert state(shop) == (0, 7000)
    with pytest.raises(BudgetExceededError, match="has 3000 micro-USD left") as refused:
        shop.accept(who, 1000, 1000)
    assert refused.value.retry_after_s is not None
    shop.finish(first.job_id, 1000, 1000)
    assert state(shop) == (4000, 0)
    shop.accept(who, 1000, 1000)
    assert state(shop) == (4000, 4000)


def test_a_spent_budget_says_that_waiting_does_not_help(shop: Shop) -> None:
    who = shop.principal()
    budget(shop, 3999)
    with pytest.raises(BudgetExceededError) as refused:
        shop.accept(who, 1000, 1000)
    assert refused.value.headers() == {"x-should-retry": "false"}
    assert shop.count(jobs) == shop.count(reservations) == 0


def test_a_new_budget_counts_what_was_spent_and_promised_before(shop: Shop) -> None:
    who = shop.principal()
    shop.finish(shop.accept(who, 1000, 0).job_id, 1000, 0)
    running = shop.accept(who, 2000, 0)
    budget(shop, 10_000)
    assert state(shop) == (1000, 2000)
    shop.finish(running.job_id, 2000, 0)
    assert state(shop) == (3000, 0)


def test_a_budget_begins_anew_with_its_period(shop: Shop) -> None:
    who = shop.principal()
    budget(shop, 4000, period="day")
    first = shop.accept(who, 1000, 1000)
    tomorrow_s = NOW_S + 86_400
    second = shop.accept(who, 1000, 1000, now_s=tomorrow_s)
    # A job counts to the day on which it was accepted.
    shop.finish(first.job_id, 1000, 1000, now_s=tomorrow_s)
    assert state(shop) == (4000, 0)
    assert state(shop, tomorrow_s) == (0, 4000)
    shop.finish(second.job_id, 0, 0, "failed", now_s=tomorrow_s)
    assert state(shop, tomorrow_s) == (0, 0)


def test_budgets_of_projects_and_keys_bind_these_alone(shop: Shop) -> None:
    project = shop.accounts.create_project("acme", "web", NOW_S)["id"]
    inside, outside = shop.principal(project="web"), shop.principal()
    budget(shop, 1000, scope="project", scope_id=project)
    budget(shop, 0, scope="key", scope_id=shop.principal().key_id)
    shop.accept(inside, 1000, 0)
    with pytest.raises(BudgetExceededError, match="the project's budget"):
        shop.accept(inside, 1, 0)
    shop.accept(outside, 5000, 0)
    with pytest.raises(NotFoundError):
        budget(shop, 1, scope="project", scope_id="proj_of_nobody")


def test_a_soft_budget_only_raises_alerts_each_once(shop: Shop) -> None:
    who = shop.principal()
    made = budget(shop, 10_000, hard=False, alerts_percent=(50, 100))
    for _ in range(6):
        shop.finish(shop.accept(who, 4000, 0).job_id, 4000, 0)
    alerts = [row for row in shop.ledger.list_events(0, 100) if row["kind"] == "budget.alert"]
    assert [row["message"].partition(": ")[2] for row in alerts] == [
        "50 % reached, 8000 of 10000 micro-USD spent",
        "100 % reached, 12000 of 10000 micro-USD spent",
    ]
    assert all(made in row["message"] for row in alerts)
    shop.billing.drop_budget(made)
    assert shop.billing.budgets("acme", NOW_S) == []


def test_a_prepaid_tenant_spends_what_it_paid_and_no_more(shop: Shop) -> None:
    shop.tenant("beta", "prepaid")
    who = shop.principal("beta")
    with pytest.raises(BudgetExceededError, match="has 0 micro-USD left"):
        shop.accept(who, 1, 0)
    shop.books.pay("beta", 4000, "bank-1", NOW_S)
    job = shop.accept(who, 1000, 1000)
    with pytest.raises(BudgetExceededError):
        shop.accept(who, 1, 0)
    shop.finish(job.job_id, 1000, 500)
    assert shop.books.account("beta")["prepaid_micro_usd"] == 1500
    assert shop.accept(who, 1500, 0).amount_micro_usd == 1500
    assert shop.billing.limited_tenants() == {who.tenant_id}


@pytest.mark.parametrize("n_threads", [8])
def test_many_that_spend_one_budget_at_once_keep_it_and_use_it_up(
    shop: Shop, database_url: str, n_threads: int
) -> None:
    """The hard stop must hold within 1 %, over several gateways too."""
    limit = 1_000_000
    who = shop.principal()
    budget(shop, limit)
    shops = [Shop(database_url) for _ in range(2)]
    spent, lock = [0], threading.Lock()

    def spend(number: int) -> None:
        mine = shops[number % 2]
        for turn in range(1000):
            n_prompt = 1000 + 37 * ((number + turn) % 5)
            try:
                job = mine.accept(who, n_prompt, 2000, job_id=f"{number}-{turn}")
            except BudgetExceededError as error:
                if error.retry_after_s is None:
                    return
                continue
            # Half of the answer is used: the rest of what was set aside is free again.
            assert mine.finish(job.job_id, n_prompt, 1000)
            with lock:
                spent[0] += PRICE.amount_micro_usd(n_prompt, 1000)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(spend, range(n_threads)))
    for one in shops:
        one.close()
    assert state(shop) == (spent[0], 0)
    assert 0.99 * limit <= spent[0] <= limit
    assert -shop.books.balances()["site:revenue"] == spent[0]


def quota(shop: Shop, **limits: int) -> None:
    shop.billing.set_quota("acme", QuotaSpec("tenant", "", **limits))


def test_requests_of_a_minute_are_counted_and_told(shop: Shop) -> None:
    who = shop.principal()
    quota(shop, requests_per_minute=2, tokens_per_minute=10_000)
    minute_s = NOW_S // 60 * 60
    first = shop.accept(who, 1000, 2000, now_s=minute_s + 20)
    assert first.rate_limit.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "40s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "7000",
        "x-ratelimit-reset-tokens": "40s",
    }
    shop.accept(who, 1, 1, now_s=minute_s + 21)
    with pytest.raises(QuotaExceededError, match="2 requests a minute") as refused:
        shop.accept(who, 1, 1, now_s=minute_s + 30)
    assert refused.value.headers()["Retry-After"] == "30"
    assert refused.value.headers()["x-ratelimit-remaining-requests"] == "0"
    shop.accept(who, 1, 1, now_s=minute_s + 60)


def test_tokens_that_were_not_used_are_free_again_within_the_window(shop: Shop) -> None:
    who = shop.principal()
    quota(shop, tokens_per_minute=5000)
    job = shop.accept(who, 1000, 3000)
    with pytest.raises(QuotaExceededError, match="1000 left, 1001 are needed"):
        shop.accept(who, 1000, 1)
    shop.finish(job.job_id, 1000, 100)
    left = shop.accept(who, 1000, 0).rate_limit
    assert left.remaining_tokens == 5000 - 1100 - 1000


def test_a_refused_job_takes_nothing_from_any_quota(shop: Shop) -> None:
    who = shop.principal()
    quota(shop, requests_per_minute=2, tokens_per_day=100)
    for _ in range(5):
        with pytest.raises(QuotaExceededError, match="tokens a day"):
            shop.accept(who, 101, 0)
    assert shop.accept(who, 50, 50).rate_limit.remaining_requests == 1


def test_jobs_at_once_are_limited_until_one_ends(shop: Shop) -> None:
    who = shop.principal()
    quota(shop, concurrent_jobs=2)
    first, _ = shop.accept(who, 1, 1), shop.accept(who, 1, 1)
    with pytest.raises(QuotaExceededError, match="2 jobs at once"):
        shop.accept(who, 1, 1)
    shop.finish(first.job_id, 1, 0, "cancelled")
    shop.accept(who, 1, 1)


def test_many_that_start_at_once_keep_the_quota_exactly(shop: Shop) -> None:
    who = shop.principal()
    quota(shop, concurrent_jobs=7, requests_per_day=100)

    def start(number: int) -> bool:
        try:
            shop.accept(who, 1, 1, job_id=f"job-{number}")
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(40))) == 7
    assert shop.count(reservations) == 7


def test_a_quota_without_any_limit_is_none(shop: Shop) -> None:
    quota(shop, concurrent_jobs=0)
    with pytest.raises(QuotaExceededError):
        shop.accept(shop.principal(), 1, 1)
    quota(shop)
    assert shop.billing.quotas("acme") == []
    shop.accept(shop.principal(), 1, 1)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=12))
def test_what_is_quoted_bounds_what_is_billed(parts: list[tuple[int, int]]) -> None:
    price = Price(7, 13)
    for used, more in parts:
        worst = price.amount_micro_usd(used + more, used + more)
        assert price.amount_micro_usd(used, used + more) <= worst


@pytest.mark.parametrize("period", ["day", "month"])
@given(time_s=st.floats(0, 4e9))
def test_a_time_is_within_its_period(period: str, time_s: float) -> None:
    start_s, end_s = period_start_s(period, time_s), period_end_s(period, time_s)
    assert start_s <= time_s < end_s
    assert period_start_s(period, end_s) == end_s
    assert datetime.fromtimestamp(start_s, UTC).hour == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "20ms"), (0, "0ms"), (59.2, "60s"), (59, "59s"), (360, "6m0s"), (86_399, "23h59m59s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == ("1m0s" if text == "60s" else text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scope": "planet"}, "scope"),
        ({"period": "decade"}, "period"),
        ({"limit_micro_usd": -1}, "limit_micro_usd"),
        ({"alerts_percent": (80, 50)}, "alerts_percent"),
        ({"alerts_percent": (0,)}, "alerts_percent"),
    ],
)
def test_a_wrong_budget_is_refused(change: dict[str, object], field: str) -> None:
    right: dict[str, object] = {
        "scope": "tenant",
        "scope_id": "",
        "period": "day",
        "limit_micro_usd": 1,
    }
    with pytest.raises(InvalidInputError) as caught:
        BudgetSpec(**(right | change))  # type: ignore[arg-type]
    assert caught.value.field == field


def test_an_unlimited_tenant_is_not_held_up(shop: Shop) -> None:
    who: Principal = shop.principal()
    assert shop.billing.limited_tenants() == frozenset()
    with shop.engine.connect() as db:
        assert db.execute(sa.text("SELECT COUNT(*) FROM quota_windows")).scalar() == 0
    assert shop.accept(who, 10**6, 10**6).rate_limit.headers() == {}
