"""The store's thread: order, one transaction for what waits, a part that fails takes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from marketplace.store.connect import open_database, reading, writing
from marketplace.store.thread import StoreThread

_KINDS = sa.text("SELECT kind FROM events ORDER BY seq")


class Store:
    """Writes events, and tells how many transactions that were."""

    def __init__(self, path: Path) -> None:
        self.engine = open_database(f"sqlite:///{path}/market.db")
        self.thread = StoreThread(self.engine)
        self.commits = 0
        sa.event.listen(self.engine, "commit", self._count)

    def _count(self, _: sa.Connection) -> None:
        self.commits += 1

    def add(self, kind: str) -> list[str]:
        with writing(self.engine) as db:
            _insert(db, kind)
        return self.kinds()

    def fail(self) -> None:
        with writing(self.engine) as db:
            db.execute(sa.text("INSERT INTO no_such_table VALUES (1)"))

    def add_and_fail(self, kind: str) -> None:
        with writing(self.engine) as db:
            _insert(db, kind)
            db.execute(sa.text("INSERT INTO no_such_table VALUES (1)"))

    def add_and_run_out_of_disk(self, kind: str) -> None:
        """As SQLite does then, it gives up the transaction."""
        with writing(self.engine) as db:
            _insert(db, kind)
            db.exec_driver_sql("ROLLBACK")
            raise sa.exc.OperationalError("INSERT", {}, Exception("the disk is full"))

    def kinds(self) -> list[str]:
        with reading(self.engine) as db:
            return list(db.execute(_KINDS).scalars())

    def hold(self) -> threading.Event:
        """Keeps the thread busy until the event is set."""
        begun, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            go_on.wait(10.0)

        self.thread.submit(wait)
        assert begun.wait(10.0)
        return go_on


def _insert(db: sa.Connection, kind: str) -> None:
    row = {"kind": kind, "message": "", "time_s": 0.0, "severity": "info"}
    statement = "INSERT INTO events (kind, message, time_s, severity)"
    db.execute(sa.text(f"{statement} VALUES (:kind, :message, :time_s, :severity)"), row)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.thread.close()
    store.engine.dispose()


def test_what_waits_is_kept_at_once_and_in_order(store: Store) -> None:
    go_on = store.hold()
    added = [store.thread.submit(store.add, f"event-{n}") for n in range(20)]
    go_on.set()
    # Each sees what was given before it, though none of that is kept yet.
    for n, done in enumerate(added):
        assert done.result(10.0) == [f"event-{k}" for k in range(n + 1)]
    assert store.commits == 1


def test_a_part_that_fails_takes_nothing_else_with_it(store: Store) -> None:
    go_on = store.hold()
    before = store.thread.submit(store.add, "before")
    failing = store.thread.submit(store.add_and_fail, "lost")
    after = store.thread.submit(store.add, "after")
    go_on.set()
    assert before.result(10.0) == ["before"]
    with pytest.raises(sa.exc.OperationalError, match="no_such_table"):
        failing.result(10.0)
    assert after.result(10.0) == ["before", "after"]
    assert store.kinds() == ["before", "after"]


def test_a_part_that_fails_before_it_writes_costs_the_others_nothing(store: Store) -> None:
    go_on = store.hold()
    before = store.thread.submit(store.add, "before")
    failing = store.thread.submit(store.fail)
    after = store.thread.submit(store.add, "after")
    go_on.set()
    with pytest.raises(sa.exc.OperationalError, match="no_such_table"):
        failing.result(10.0)
    assert before.result(10.0) == ["before"]
    assert after.result(10.0) == ["before", "after"]
    assert store.commits == 1


def test_a_transaction_that_the_database_gave_up_is_done_again_without_its_cause(
    store: Store,
) -> None:
    go_on = store.hold()
    before = store.thread.submit(store.add, "before")
    failing = store.thread.submit(store.add_and_run_out_of_disk, "lost")
    after = store.thread.submit(store.add, "after")
    go_on.set()
    with pytest.raises(sa.exc.OperationalError, match="the disk is full"):
        failing.result(10.0)
    assert before.result(10.0) == ["before"]
    assert after.result(10.0) == ["before", "after"]
    assert store.kinds() == ["before", "after"]


def test_nobody_is_told_of_what_could_not_be_kept(store: Store) -> None:
    go_on = store.hold()
    first = store.thread.submit(store.add, "first")
    second = store.thread.submit(store.add, "second")

    def refuse(_: sa.Connection) -> None:
        raise sa.exc.OperationalError("COMMIT", {}, Exception("the disk is full"))

    sa.event.listen(store.engine, "commit", refuse)
    go_on.set()
    for done in (first, second):
        with pytest.raises(sa.exc.OperationalError, match="the disk is full"):
            done.result(10.0)
    sa.event.remove(store.engine, "commit", refuse)
    assert store.kinds() == []


def test_what_was_submitted_is_done_before_it_is_closed(store: Store) -> None:
    go_on = store.hold()
    added = [store.thread.submit(store.add, "event") for _ in range(3)]
    go_on.set()
    store.thread.close()
    assert [done.done() for done in added] == [True] * 3
    with pytest.raises(RuntimeError, match="closed"):
        store.thread.submit(store.kinds)
