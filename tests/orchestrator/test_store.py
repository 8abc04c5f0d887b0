"""The store: what it must not forget, and what it must refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from airan.core.errors import ConfigError, NotFoundError, StaleGenerationError, UnavailableError
from orchestrator.mig import MigGeometry
from orchestrator.plan import Demand, Gpu, Inventory, Plan, plan, renumbered
from orchestrator.policy import Policy
from orchestrator.store import Store, migrate
from orchestrator.store.database import engine_of, take_lead
from orchestrator.store.schema import EVENTS, METADATA
from orchestrator.views import AuditEntry, Lease


def a_plan() -> Plan:
    inventory = Inventory((Gpu("GPU-1", MigGeometry.load("GH200-96GB")),))
    return plan(Policy(), inventory, Demand(0.3, 0.3, 0.3), None)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def reopened(database_url: str) -> Iterator[Callable[[Store], Store]]:
    """Closes a store and opens its database again."""
    stores: list[Store] = []

    def again(store: Store) -> Store:
        store.close()
        stores.append(Store(database_url))
        return stores[-1]

    yield again
    for store in stores:
        store.close()


def test_a_plan_comes_back_as_it_was(store: Store, reopened: Callable[[Store], Store]) -> None:
    first = a_plan()
    store.add_plan(first, 12.5)
    store.mark_plan(1, "applying")
    stored = reopened(store).newest_plan()
    assert stored is not None
    assert (stored.plan, stored.state, stored.created_s) == (first, "applying", 12.5)


def test_a_stale_generation_is_refused(store: Store) -> None:
    first = a_plan()
    second = renumbered(first, first, "again")
    store.add_plan(first, 0.0)
    store.add_plan(second, 1.0)
    with pytest.raises(StaleGenerationError, match="plan 1 is stale"):
        store.add_plan(first, 2.0)
    with pytest.raises(StaleGenerationError):
        store.mark_plan(1, "applied")
    with pytest.raises(NotFoundError):
        store.mark_plan(9, "applied")
    assert [one.state for one in store.plans(5)] == ["stored", "superseded"]


def test_events_are_numbered_without_gaps_or_repeats(
    store: Store, reopened: Callable[[Store], Store]
) -> None:
    first = store.add_event(1.0, "info", "plan.stored", "one")
    again = reopened(store)
    second = again.add_event(2.0, "warning", "slot.alarm", "two")
    assert (first.seq, second.seq) == (1, 2)
    assert again.events(0, 10) == [first, second]
    assert again.events(1, 10) == [second]
    assert again.events(0, 1) == [first]


def test_roles_of_partitions_that_are_gone_are_forgotten(store: Store) -> None:
    store.set_role("MIG-1", "ran")
    store.set_role("MIG-2", "ai")
    store.set_role("MIG-2", "free")
    store.keep_roles(["MIG-2"])
    assert store.roles() == {"MIG-2": "free"}


def test_live_leases_and_ended_ones_are_told_apart(store: Store) -> None:
    store.put_lease(Lease(id="a", state="active", granted_s=1.0), 5.0)
    store.put_lease(Lease(id="b", state="active", granted_s=2.0), 6.0)
    store.put_lease(Lease(id="b", state="ended", granted_s=2.0, end_reason="released"), 6.0)
    assert store.leases() == [(Lease(id="a", state="active", granted_s=1.0), 5.0)]
    assert [lease.id for lease, _ in store.leases(include_ended=True)] == ["b", "a"]
    assert store.lease("none") is None


def test_old_demand_is_forgotten(store: Store) -> None:
    for time_s in (1.0, 2.0, 11.5):
        store.add_demand(time_s, 0.5, keep_s=10.0)
    assert store.demand() == [(2.0, 0.5), (11.5, 0.5)]


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    path.write_bytes(b"this is no database, it only looks for trouble" * 100)
    with pytest.raises(UnavailableError, match=r"control\.sqlite"):
        Store(path)


def test_the_steps_of_a_plan_are_kept_in_order(store: Store) -> None:
    store.note_step(1, "create 3g.48gb at slice 4 for ran", "started", 1.0)
    store.note_step(1, "create 3g.48gb at slice 4 for ran", "failed", 2.0, "the driver failed")
    store.note_step(2, "destroy 3g.48gb at slice 4", "started", 3.0)
    steps = store.plan_steps(1)
    assert [(step.state, step.error) for step in steps] == [
        ("started", ""),
        ("failed", "the driver failed"),
    ]


def test_maintenance_is_remembered_until_it_is_over(store: Store) -> None:
    store.set_maintenance("GPU-1", "fan", 1.0)
    store.set_maintenance("GPU-1", "fan replaced on Friday", 2.0)
    store.set_maintenance("GPU-2", "firmware", 3.0)
    store.clear_maintenance("GPU-2")
    store.clear_maintenance("GPU-2")
    assert store.maintenance() == {"GPU-1": "fan replaced on Friday"}


AUDIT_COLUMNS = "(seq, time_s, actor, role, method, request, outcome, message)"


def entry(actor: str, method: str = "PolicyService/SetPolicy") -> AuditEntry:
    return AuditEntry(0, 1.5, actor, "operator", method, '{"kind": "static"}', "ok", "")


def test_the_audit_log_is_numbered_and_searched(store: Store) -> None:
    first, second = store.add_audit(entry("ada")), store.add_audit(entry("bob"))
    third = store.add_audit(entry("ada", "CapacityService/RevokeLease"))
    assert first.seq < second.seq < third.seq
    assert store.audit(0, 10) == [first, second, third]
    assert store.audit(first.seq, 1) == [second]
    assert store.audit(0, 10, actor="ada", method="CapacityService/RevokeLease") == [third]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET actor = 'eve'",
        "DELETE FROM audit",
        f"{{replace}} INTO audit {AUDIT_COLUMNS} VALUES (1, 0, 'eve', 'a', '', '', '', '')"
        " {upsert}",
    ],
)
def test_nobody_changes_the_audit_log(store: Store, database_url: str, change: str) -> None:
    kept = store.add_audit(entry("ada"))
    engine = engine_of(database_url)
    sqlite = engine.dialect.name == "sqlite"
    words = {
        "replace": "INSERT OR REPLACE" if sqlite else "INSERT",
        "upsert": "" if sqlite else "ON CONFLICT (seq) DO UPDATE SET actor = 'eve'",
    }
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as db:
        db.execute(sa.text(change.format(**words)))
    engine.dispose()
    assert store.audit(0, 10) == [kept]


def test_plans_and_leases_are_read_in_pages(store: Store) -> None:
    newest = a_plan()
    store.add_plan(newest, 0.0)
    for number in range(1, 5):
        newest = renumbered(newest, newest, "again")
        store.add_plan(newest, float(number))
    assert [one.plan.generation for one in store.plans(2)] == [5, 4]
    assert [one.plan.generation for one in store.plans(2, before_generation=4)] == [3, 2]
    for name in "abcd":
        store.put_lease(Lease(id=name, granted_s=1.0 if name < "c" else 2.0), 0.0)
    page = store.leases(limit=2)
    assert [lease.id for lease, _ in page] == ["d", "c"]
    last = page[-1][0]
    rest = store.leases(limit=2, before=(last.granted_s, last.id))
    assert [lease.id for lease, _ in rest] == ["b", "a"]


def test_old_things_are_forgotten_but_not_the_audit_log(store: Store) -> None:
    newest = a_plan()
    store.add_plan(newest, 0.0)
    store.note_step(1, "create", "done", 0.0)
    for _ in range(4):
        newest = renumbered(newest, newest, "again")
        store.add_plan(newest, 1.0)
    for number in range(6):
        store.add_event(float(number), "info", "x", "y")
        store.add_audit(entry("ada"))
        state = "ended" if number < 5 else "active"
        store.put_lease(Lease(id=str(number), state=state, granted_s=float(number)), 0.0)
    store.prune(keep_plans=2, keep_events=3, keep_ended_leases=2)
    assert [one.plan.generation for one in store.plans(9)] == [5, 4]
    assert store.plan_steps(1) == []
    assert [one.time_s for one in store.events(0, 9)] == [3.0, 4.0, 5.0]
    assert [lease.id for lease, _ in store.leases(include_ended=True)] == ["5", "4", "3"]
    assert len(store.audit(0, 99)) == 6


def test_a_leader_of_yesterday_writes_nothing(store: Store, database_url: str) -> None:
    engine = engine_of(database_url)
    with engine.begin() as db:
        old = take_lead(db, "first", 1.0)
    store.follow(old)
    store.set_role("MIG-1", "ran")
    with engine.begin() as db:
        assert take_lead(db, "second", 2.0) == old + 1
    for write in (
        lambda: store.set_role("MIG-1", "ai"),
        lambda: store.add_plan(a_plan(), 0.0),
        lambda: store.add_event(0.0, "info", "x", "y"),
        lambda: store.add_audit(entry("ada")),
    ):
        with pytest.raises(StaleGenerationError, match="has begun"):
            write()
    engine.dispose()
    assert store.roles() == {"MIG-1": "ran"}
    assert store.newest_plan() is None


def test_migrations_lead_there_and_back(database_url: str) -> None:
    Store(database_url).close()
    engine = engine_of(database_url)
    migrate.downgrade(engine, "0001")
    assert "audit" not in sa.inspect(engine).get_table_names()
    migrate.downgrade(engine, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    migrate.upgrade(engine)
    with engine.connect() as db:
        context = MigrationContext.configure(db)
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_migration_that_fails_leaves_everything_as_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade_and_fail(*_: object) -> None:
        real(*_)
        raise RuntimeError("the power fails")

    real = migrate.command.upgrade
    monkeypatch.setattr(migrate.command, "upgrade", upgrade_and_fail)
    with pytest.raises(RuntimeError, match="power"):
        Store(database_url)
    engine = engine_of(database_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    monkeypatch.undo()
    Store(database_url).close()


def test_several_that_open_a_new_database_at_once_all_find_it_whole(database_url: str) -> None:
    def opened(_: int) -> list[AuditEntry]:
        store = Store(database_url)
        try:
            return store.audit(0, 1)
        finally:
            store.close()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [[]] * 6


def test_a_database_from_before_there_were_migrations_is_taken_over(database_url: str) -> None:
    store = Store(database_url)
    store.add_plan(a_plan(), 1.0)
    store.close()
    engine = engine_of(database_url)
    migrate.downgrade(engine, "0001")
    with engine.begin() as db:
        db.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()
    store = Store(database_url)
    assert store.newest_plan() is not None
    assert store.add_audit(entry("ada")).seq == 1
    store.close()


@pytest.mark.parametrize("url", ["mysql://root:secret@localhost/x", "postgresql:secret"])
def test_other_databases_are_refused_without_telling_passwords(url: str) -> None:
    with pytest.raises(ConfigError, match=r"use sqlite:///PATH or postgresql://") as refused:
        engine_of(url)
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"psycopg.*extra `postgres`"):
        engine_of("postgresql://airan@localhost/x")


def test_a_year_stays_bounded_however_far_behind_pruning_is(
    store: Store, database_url: str
) -> None:
    engine = engine_of(database_url)
    with engine.begin() as db:
        event = {"severity": "info", "kind": "x", "message": "y"}
        db.execute(EVENTS.insert(), [{**event, "time_s": float(n)} for n in range(2500)])
    engine.dispose()
    for left in (1500, 500, 100, 100):
        store.prune(keep_plans=2, keep_events=100, keep_ended_leases=2)
        assert len(store.events(0, 9999)) == left
    assert store.events(0, 1)[0].time_s == 2400.0


def test_changes_made_together_are_kept_whole_or_not_at_all(store: Store) -> None:
    told: list[str] = []

    def fail() -> None:
        with store.together():
            store.set_role("p1", "ran")
            store.then(lambda: told.append("lost"))
            store.mark_plan(-1, "applied")

    with pytest.raises(StaleGenerationError):
        fail()
    assert (store.roles(), told) == ({}, [])
    with store.together():
        store.set_role("p1", "ran")
        store.then(lambda: told.append("kept"))
        assert (store.roles(), told) == ({"p1": "ran"}, [])
    assert (store.roles(), told) == ({"p1": "ran"}, ["kept"])
    store.then(lambda: told.append("at once"))
    assert told == ["kept", "at once"]
