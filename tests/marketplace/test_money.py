"""Billing: every completed job is billed once, whatever happens around it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace.keys import key_hash, new_key, shown_prefix
from marketplace.money import Price, micro_usd
from marketplace.store.accounts import Accounts
from marketplace.store.connect import open_database
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.ledger import Ledger, Outcome, pack_ids, unpack_ids
from tests.marketplace.books import left_open

PRICE = Price.from_usd(0.01, 0.03)
TOKENS = st.integers(0, 5000)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def open_ledger(folder: Path) -> Ledger:
    engine = open_database(f"sqlite:///{folder / 'market.db'}")
    accounts = Accounts(engine)
    if not accounts.list_tenants():
        accounts.create_tenant("acme", 0.0)
    return Ledger(engine)


def add(ledger: Ledger, job_id: str, kind: str) -> None:
    keys = Keys(ledger._engine)
    key = (keys.list() or [keys.create("acme", KeySpec("k"), 0.0)])[0]
    row = {"id": job_id, "kind": kind, "tenant_id": key["tenant_id"], "key_id": key["id"]}
    row |= {"model": "m", "request": "{}" if kind == "async" else None, "input_tokens": 0}
    ledger.add_job(row, 0.0)


def test_prices_are_exact_in_micro_usd() -> None:
    assert micro_usd(0.01) == 10_000
    assert micro_usd(0.1) + micro_usd(0.2) == micro_usd(0.3)
    assert PRICE.amount_micro_usd(1000, 1000) == 40_000
    assert PRICE.amount_micro_usd(1, 0) == 10


@given(TOKENS, TOKENS)
def test_an_amount_is_the_exact_price_rounded_half_up(n_in: int, n_out: int) -> None:
    price = Price(7, 13)
    exact_milli = 7 * n_in + 13 * n_out
    amount = price.amount_micro_usd(n_in, n_out)
    assert -500 < exact_milli - 1000 * amount <= 500 or exact_milli - 1000 * amount == -500


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "complete", "cancel", "fail", "checkpoint", "crash"]),
        st.integers(0, 5),
        TOKENS,
        TOKENS,
    ),
    max_size=40,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_money_in_is_money_out_over_any_order_of_ends_retries_and_crashes(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("books")
    ledger, numbers = open_ledger(folder), itertools.count()
    model: dict[str, tuple[str, int]] = {}  # job -> state and what it must be billed
    kinds: dict[str, str] = {}
    for action, which, n_in, n_out in actions:
        if action == "add":
            job_id = f"job-{next(numbers)}"
            kinds[job_id] = "async" if which % 2 else "sync"
            add(ledger, job_id, kinds[job_id])
            model[job_id] = ("queued", 0)
        elif action == "crash":
            ledger._engine.dispose()
            ledger = open_ledger(folder)
            kept = {row["id"] for row in left_open(ledger, 1.0)}
            still_open = {job for job, (state, _) in model.items() if state == "queued"}
            assert kept == {job for job in still_open if kinds[job] == "async"}
            for job in still_open - kept:
                model[job] = ("failed", 0)
        elif model:
            job_id = sorted(model)[which % len(model)]
            state, _ = model[job_id]
            if action == "checkpoint":
                ledger.checkpoint(job_id, [1, 2, n_in], "text", which, 1.0)
                continue
            end = {"complete": "completed", "cancel": "cancelled", "fail": "failed"}[action]
            counted = ledger.finish(job_id, Outcome(end, n_in, n_out), PRICE, 1.0)
            assert counted == (state == "queued")
            if counted:
                billed = end == "completed" or (end == "cancelled" and n_out > 0)
                model[job_id] = (end, (10 * n_in + 30 * n_out) if billed else 0)
    expected = sum(amount for _, amount in model.values())
    totals = ledger.totals()
    assert totals["revenue_micro_usd"] == expected
    assert sum(row["amount_micro_usd"] for row in ledger.usage()) == expected
    assert totals["received"] == len(model)
    assert totals["states"].get("completed", 0) == sum(s == "completed" for s, _ in model.values())
    ledger._engine.dispose()


def test_a_job_that_ended_stays_as_it_ended(ledger: Ledger) -> None:
    add(ledger, "a", "sync")
    assert ledger.finish("a", Outcome("completed", 10, 10), PRICE, 1.0)
    assert not ledger.finish("a", Outcome("failed", 10, 10), PRICE, 1.0)
    ledger.set_preempted("a", 3, 2.0)
    row = ledger.job("a")
    assert row is not None
    assert (row["state"], row["preemptions"]) == ("completed", 0)


def test_a_restart_forgets_no_row_and_bills_no_lost_connection(ledger: Ledger) -> None:
    add(ledger, "s", "sync")
    add(ledger, "a", "async")
    ledger.checkpoint("a", [5, 6], "so far", 2, 1.0)
    rows = left_open(ledger, 2.0)
    assert [row["id"] for row in rows] == ["a"]
    assert (unpack_ids(rows[0]["generated_ids"]), rows[0]["text"]) == ([5, 6], "so far")
    lost = ledger.job("s")
    assert lost is not None
    assert (lost["state"], lost["error_code"]) == ("failed", "gateway_restarted")
    assert ledger.usage() == []


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_token_ids_survive_storage(ids: list[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


def test_a_key_is_found_by_its_hash_only_and_not_after_it_is_revoked(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'm.db'}")
    accounts = Accounts(engine)
    tenant = accounts.create_tenant("acme", 0.0)
    keys = Keys(engine)
    made = keys.create("acme", KeySpec("k"), 0.0)
    found = keys.authenticate(made["key"], 1.0)
    assert found is not None
    assert (found.tenant_id, found.key_id) == (tenant["id"], made["id"])
    assert keys.authenticate(made["key"][:-1], 1.0) is None
    assert keys.authenticate(key_hash(made["key"]), 1.0) is None
    assert made["key"].encode() not in (tmp_path / "m.db").read_bytes()
    assert "sha256" not in keys.list()[0]
    keys.revoke(made["id"], 1.0)
    assert keys.authenticate(made["key"], 1.0) is None
    assert keys.list()[0]["revoked"]
    engine.dispose()


def test_keys_are_long_random_and_tell_little() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == len({key_hash(key) for key in keys}) == 100
    for key in keys:
        assert len(key) >= 43
        assert key.startswith(shown_prefix(key))
        assert len(shown_prefix(key)) <= 10
        assert len(key_hash(key)) == 64
