"""The marketplace's database: made, taken over, brought up and down, on SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from airan.core.errors import ConfigError
from marketplace.money import Price
from marketplace.store import migrate
from marketplace.store.accounts import Accounts
from marketplace.store.connect import open_database
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.ledger import Ledger, Outcome
from marketplace.store.schema import metadata
from orchestrator.store.database import engine_of


def add_job(engine: sa.Engine) -> dict[str, object]:
    accounts, ledger = Accounts(engine), Ledger(engine)
    accounts.create_tenant("acme", 0.0)
    key = Keys(engine).create("acme", KeySpec("k"), 0.0)
    row = {"id": "job", "kind": "sync", "tenant_id": key["tenant_id"], "key_id": key["id"]}
    ledger.add_job(row | {"model": "m", "request": None, "input_tokens": 0}, 0.0)
    return key


def test_a_job_is_billed_once_on_either_database(database_url: str) -> None:
    engine = open_database(database_url)
    key = add_job(engine)
    ledger = Ledger(engine)
    assert Keys(engine).authenticate(str(key["key"]), 1.0) is not None
    assert ledger.finish("job", Outcome("completed", 1000, 1000), Price(10, 30), 1.0)
    assert not ledger.finish("job", Outcome("completed", 1000, 1000), Price(10, 30), 2.0)
    assert ledger.totals()["revenue_micro_usd"] == 40
    assert [row["amount_micro_usd"] for row in ledger.usage()] == [40]
    engine.dispose()


def test_migrations_lead_there_and_back(database_url: str) -> None:
    open_database(database_url).dispose()
    engine = engine_of(database_url)
    migrate.downgrade(engine, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    migrate.upgrade(engine)
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    engine.dispose()


def test_a_database_from_before_there_were_migrations_is_taken_over(database_url: str) -> None:
    engine = engine_of(database_url)
    migrate.upgrade(engine, migrate.FIRST)
    with engine.begin() as db:
        db.execute(sa.text("INSERT INTO tenants VALUES ('ten_1', 'acme', 0.0)"))
        db.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()
    taken_over = open_database(database_url)
    assert [row["name"] for row in Accounts(taken_over).list_tenants()] == ["acme"]
    assert Keys(taken_over).create("acme", KeySpec("k"), 1.0)["key"]
    taken_over.dispose()


def test_a_database_of_a_newer_airan_is_refused(database_url: str) -> None:
    engine = open_database(database_url)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigError, match="newer airan"):
        open_database(database_url)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "market.db"
    path.write_bytes(b"this is no database, it only looks for trouble" * 100)
    with pytest.raises(ConfigError, match=r"market\.db"):
        open_database(f"sqlite:///{path}")


def test_several_that_open_a_new_database_at_once_all_find_it_whole(database_url: str) -> None:
    def opened(_: int) -> list[object]:
        engine = open_database(database_url)
        try:
            return list(Accounts(engine).list_tenants())
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [[]] * 4
