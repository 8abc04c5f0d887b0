"""The store: what it must not forget, and what it must refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from airan.core.errors import NotFoundError, StaleGenerationError, UnavailableError
from orchestrator.mig import MigGeometry
from orchestrator.plan import Demand, Gpu, Inventory, Plan, plan, renumbered
from orchestrator.policy import Policy
from orchestrator.store import Store
from orchestrator.views import Lease


def a_plan() -> Plan:
    inventory = Inventory((Gpu("GPU-1", MigGeometry.load("GH200-96GB")),))
    return plan(Policy(), inventory, Demand(0.3, 0.3, 0.3), None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "control.sqlite")


def reopened(store: Store, tmp_path: Path) -> Store:
    store.close()
    return Store(tmp_path / "state" / "control.sqlite")


def test_a_plan_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    first = a_plan()
    store.add_plan(first, 12.5)
    store.mark_plan(1, "applying")
    stored = reopened(store, tmp_path).newest_plan()
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


def test_events_are_numbered_without_gaps_or_repeats(store: Store, tmp_path: Path) -> None:
    first = store.add_event(1.0, "info", "plan.stored", "one")
    again = reopened(store, tmp_path)
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
