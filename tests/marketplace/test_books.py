"""The books: what is written sums to zero, stays as it is, and gives the same balances again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.store.books import CASH, REVENUE, prepaid, receivable, replay
from marketplace.store.connect import writing
from marketplace.store.schema import ledger_entries, ledger_transactions, reservations
from tests.marketplace.books import NOW_S, PRICE, Shop, left_open


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    yield shop
    assert shop.books.check()["problems"] == []
    shop.close()


def test_a_job_is_billed_at_the_price_it_was_quoted_and_booked_once(shop: Shop) -> None:
    tenant = shop.tenant()
    job = shop.accept(shop.principal(), 1000, 2000, price=PRICE)
    assert job.amount_micro_usd == 7000
    assert shop.finish(job.job_id, 1000, 500)
    assert not shop.finish(job.job_id, 1000, 500)
    assert shop.books.balances() == {receivable(tenant): 2500, REVENUE: -2500}
    assert shop.count(reservations) == 0


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_gave_nothing_costs_nothing(shop: Shop, state: str) -> None:
    shop.tenant()
    job = shop.accept(shop.principal(), 1000, 2000)
    assert shop.finish(job.job_id, 1000, 0, state)
    assert shop.books.balances() == {}
    assert shop.count(reservations) == 0


def test_a_restart_frees_what_was_set_aside_for_lost_connections(shop: Shop) -> None:
    shop.tenant()
    shop.accept(shop.principal(), 1000, 2000)
    assert left_open(shop.ledger, NOW_S) == []
    assert shop.count(reservations) == 0


def test_payments_settle_what_is_owed_and_the_rest_is_prepaid(shop: Shop) -> None:
    tenant = shop.tenant()
    who = shop.principal()
    shop.finish(shop.accept(who, 1000, 1000).job_id, 1000, 0)
    first = shop.books.pay("acme", 5000, "bank-1", NOW_S)
    assert shop.books.pay("acme", 5000, "bank-1", NOW_S + 9) == first
    with pytest.raises(InvalidInputError, match="another transaction"):
        shop.books.pay("acme", 5001, "bank-1", NOW_S)
    assert shop.books.account("acme") == {
        "tenant_id": tenant,
        "owed_micro_usd": 0,
        "prepaid_micro_usd": 4000,
    }
    shop.finish(shop.accept(who, 1000, 2000).job_id, 1000, 2000)
    assert shop.books.balances() == {
        CASH: 5000,
        REVENUE: -8000,
        receivable(tenant): 3000,
        prepaid(tenant): 0,
    }


def test_no_more_is_refunded_than_was_billed(shop: Shop) -> None:
    shop.tenant()
    job = shop.accept(shop.principal(), 1000, 1000)
    with pytest.raises(NotFoundError, match="was not billed"):
        shop.books.refund(job.job_id, None, "r0", NOW_S)
    shop.finish(job.job_id, 1000, 1000)
    assert shop.books.refund(job.job_id, 1500, "r1", NOW_S)["amount_micro_usd"] == 1500
    assert shop.books.refund(job.job_id, 1500, "r1", NOW_S)["amount_micro_usd"] == 1500
    with pytest.raises(InvalidInputError, match="2500 are left"):
        shop.books.refund(job.job_id, 2501, "r2", NOW_S)
    assert shop.books.refund(job.job_id, None, "r2", NOW_S)["amount_micro_usd"] == 2500
    assert shop.books.account("acme")["owed_micro_usd"] == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_entries SET amount_micro_usd = 0",
        "DELETE FROM ledger_entries",
        "UPDATE ledger_transactions SET memo = 'x'",
        "DELETE FROM ledger_transactions",
        "INSERT INTO ledger_entries (transaction_id, account, amount_micro_usd) "
        "VALUES ('payment:p', 'site:cash', 1)",
    ],
)
def test_nobody_changes_what_is_booked(shop: Shop, change: str) -> None:
    shop.tenant()
    shop.books.pay("acme", 10, "p", NOW_S)
    before = shop.books.transactions("acme", 0, NOW_S + 1)
    with (
        pytest.raises(sa.exc.DatabaseError, match=r"append-only|closed"),
        writing(shop.engine) as db,
    ):
        db.execute(sa.text(change))
    assert shop.books.transactions("acme", 0, NOW_S + 1) == before


def test_what_is_booked_is_not_replaced_either(shop: Shop) -> None:
    if shop.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has INSERT OR REPLACE")
    shop.tenant()
    shop.books.pay("acme", 10, "p", NOW_S)
    change = "INSERT OR REPLACE INTO ledger_entries VALUES (1, 'payment:p', 'site:cash', 9)"
    with (
        pytest.raises(sa.exc.DatabaseError, match=r"append-only|closed"),
        writing(shop.engine) as db,
    ):
        db.execute(sa.text(change))


@pytest.mark.parametrize("amounts", [(5, -4), (5,), ()])
def test_a_transaction_that_does_not_sum_to_zero_is_refused(
    shop: Shop, amounts: tuple[int, ...]
) -> None:
    tenant = shop.tenant()
    row = {"id": "x", "kind": "credit", "tenant_id": tenant, "time_s": 0.0, "memo": ""}
    with writing(shop.engine) as db:
        for amount in amounts:
            entry = {"transaction_id": "x", "account": f"a{amount}", "amount_micro_usd": amount}
            db.execute(sa.insert(ledger_entries).values(entry))
        with pytest.raises(sa.exc.DatabaseError, match="sum to zero"):
            db.execute(sa.insert(ledger_transactions).values(row))
        db.rollback()


def test_an_entry_without_a_transaction_is_refused(shop: Shop) -> None:
    entry = {"transaction_id": "nobody", "account": "a", "amount_micro_usd": 1}
    with pytest.raises(sa.exc.IntegrityError), writing(shop.engine) as db:
        db.execute(sa.insert(ledger_entries).values(entry))


def test_a_balance_that_differs_from_the_log_is_told(shop: Shop) -> None:
    tenant = shop.tenant()
    shop.books.pay("acme", 10, "p", NOW_S)
    with writing(shop.engine) as db:
        db.execute(sa.text("UPDATE balances SET amount_micro_usd = 11 WHERE account = 'site:cash'"))
    assert shop.books.check()["problems"] == ["site:cash: the log gives 10, the balance is 11"]
    with writing(shop.engine) as db:
        db.execute(sa.text("UPDATE balances SET amount_micro_usd = 10 WHERE account = 'site:cash'"))
    assert shop.books.check()["balances"] == {CASH: 10, prepaid(tenant): -10}


def test_a_log_that_does_not_sum_to_zero_is_told() -> None:
    assert replay([("t1", "a", 5), ("t1", "b", -4), ("t2", "a", 1), ("t2", "b", -1)]) == (
        {"a": 6, "b": -5},
        ["t1: its entries sum to 1"],
    )


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "complete", "cancel", "fail", "pay", "credit", "refund"]),
        st.integers(0, 5),
        st.integers(1, 3000),
    ),
    max_size=30,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_a_replay_gives_the_same_balances_after_anything(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, int]]
) -> None:
    shop = Shop(f"sqlite:///{tmp_path_factory.mktemp('books') / 'm.db'}")
    owners = [shop.principal(shop.tenant(name)) for name in ("acme", "beta")]
    jobs: list[tuple[str, int, int]] = []  # id, whose, what it was billed
    owed, numbers = [0, 0], iter(range(1000))
    for action, which, amount in actions:
        whose = which % 2
        if action == "accept":
            jobs.append((shop.accept(owners[whose], amount, amount).job_id, whose, -1))
        elif action in ("pay", "credit"):
            give = shop.books.pay if action == "pay" else shop.books.credit
            give(owners[whose].tenant_id, amount, str(next(numbers)), NOW_S)
            owed[whose] -= amount
        elif jobs:
            job_id, whose, billed = jobs[which % len(jobs)]
            if action == "refund":
                if billed > 0:
                    shop.books.refund(job_id, None, str(next(numbers)), NOW_S)
                    owed[whose] -= billed
                    jobs[which % len(jobs)] = (job_id, whose, 0)
                continue
            state = {"complete": "completed", "cancel": "cancelled", "fail": "failed"}[action]
            if shop.finish(job_id, amount, amount, state):
                assert billed == -1
                cost = 0 if state == "failed" else 4 * amount
                owed[whose] += cost
                jobs[which % len(jobs)] = (job_id, whose, cost)
    found = shop.books.check()
    assert found["problems"] == []
    assert sum(found["balances"].values()) == 0
    for who, expected in zip(owners, owed, strict=True):
        account = shop.books.account(who.tenant_id)
        assert account["owed_micro_usd"] - account["prepaid_micro_usd"] == expected
        assert account["prepaid_micro_usd"] >= 0
    assert shop.count(reservations) == sum(billed == -1 for _, _, billed in jobs)
    shop.close()
