"""The gateways on one database: each has a seat, and who has gone leaves its work to another."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from marketplace.money import Price
from marketplace.siblings.sibling import EngineUse, Report
from marketplace.store import seats
from marketplace.store.accounts import Accounts
from marketplace.store.connect import open_database, reading, writing
from marketplace.store.keys import Keys, KeySpec
from marketplace.store.ledger import Ledger, Outcome
from marketplace.store.schema import gateways, jobs
from marketplace.store.seats import SeatLostError, Seats
from marketplace.store.takeover import inherit

ROOT = Path(__file__).resolve().parents[2]
REPORT = Report({"m": (0, 2, 1)}, {"http://e": EngineUse((1, 0, 0), (3,))}, {"running": 1})
MODELS = ("m",)
HOLDER = """
import sys, time
from marketplace.siblings.sibling import Report
from marketplace.store.connect import open_database
from marketplace.store.seats import Seats
seats = Seats(open_database(sys.argv[1]), "killed", "", ["m"])
seats.take(0.0)
seats.keep(Report(), 0.0)
print("seated", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "GONE_S", 0.5)


@pytest.fixture
def engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = open_database(postgres_url)
    yield engine
    engine.dispose()


def seated(engine: sa.Engine, name: str) -> Seats:
    found = Seats(engine, name, f"http://{name}", MODELS)
    found.take(0.0)
    found.keep(Report(), 0.0)
    return found


def owner(engine: sa.Engine, job_id: str = "job") -> str | None:
    with reading(engine) as db:
        return db.execute(sa.select(jobs.c.gateway_id).where(jobs.c.id == job_id)).scalar()


def add_job(engine: sa.Engine, gateway_id: str | None, job_id: str = "job", **changes: Any) -> None:
    accounts = Accounts(engine)
    made = accounts.create_tenant(f"tenant-{job_id}", 0.0)
    key = Keys(engine).create(made["name"], KeySpec("k"), 0.0)
    row = {"id": job_id, "kind": "async", "tenant_id": made["id"], "key_id": key["id"]}
    row |= {"model": "m", "request": "{}", "input_tokens": 1, "gateway_id": gateway_id}
    Ledger(engine).add_job(row | changes, 0.0)


def keep_on(one: Seats) -> None:
    """Through an error of its connection, which it makes anew."""
    for _ in range(3):
        one.keep(Report(), 0.0)


def until_inherited(one: Seats, timeout_s: float = 10.0) -> Any:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        found = one.keep(Report(), 0.0)
        if found.inherited is not None:
            return found.inherited
        time.sleep(0.02)
    raise AssertionError("nothing was inherited")


def test_gateways_see_each_other_and_what_they_report(engine: sa.Engine) -> None:
    first, second = seated(engine, "a"), seated(engine, "b")
    assert (first.number, second.number) == (0, 1)
    first.keep(REPORT, 0.0)
    (seen,) = second.keep(Report(), 0.0).siblings
    assert (seen.id, seen.number, seen.url, seen.report) == ("a", 0, "http://a", REPORT)
    assert [one.id for one in first.keep(Report(), 0.0).siblings] == ["b"]
    first.leave()
    second.leave()


def test_what_one_that_stands_still_had_under_way_is_not_reckoned_with(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = seated(engine, "a"), seated(engine, "b")
    first.keep(REPORT, 0.0)
    monkeypatch.setattr(seats, "STALE_S", -1.0)
    (seen,) = second.keep(Report(), 0.0).siblings
    assert (seen.id, seen.report) == ("a", Report())
    first.leave()
    second.leave()


def test_what_a_gateway_leaves_is_anothers_at_once(engine: sa.Engine) -> None:
    first, second = seated(engine, "a"), seated(engine, "b")
    add_job(engine, "a")
    first.leave()
    left = second.keep(Report(), 0.0).inherited
    assert left is not None
    assert [row["id"] for row in left.jobs] == ["job"]
    assert owner(engine) == "b"
    assert second.keep(Report(), 0.0) == seats.Round()
    second.leave()


def test_one_that_is_killed_is_given_up_and_its_seat_is_free(
    engine: sa.Engine, postgres_url: str
) -> None:
    one = seated(engine, "a")
    command = (sys.executable, "-c", HOLDER, postgres_url)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "seated\n"
        add_job(engine, "killed")
        add_job(engine, "killed", "lost", kind="sync")
        assert [each.id for each in one.keep(Report(), 0.0).siblings] == ["killed"]
        holder.kill()
    left = until_inherited(one)
    assert [row["id"] for row in left.jobs] == ["job"]
    lost = Ledger(engine).job("lost")
    assert lost is not None
    assert (lost["state"], lost["error_code"]) == ("failed", "gateway_restarted")
    assert owner(engine) == "a"
    assert seated(engine, "b").number == 1
    one.leave()


def test_one_alone_that_was_killed_is_followed_by_its_next_life(
    engine: sa.Engine, postgres_url: str
) -> None:
    command = (sys.executable, "-c", HOLDER, postgres_url)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "seated\n"
        add_job(engine, "killed")
        holder.kill()
    following = Seats(engine, "next", "", MODELS)
    found = following.take(0.0)
    left = found if found else until_inherited(following)
    assert [row["id"] for row in left.jobs] == ["job"]
    following.leave()


def cut_off(url: str) -> None:
    """Ends every other session, as a failing line would."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    engine.dispose()


def test_one_that_lost_its_connection_keeps_its_seat(
    engine: sa.Engine, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = seated(engine, "a"), seated(engine, "b")
    add_job(engine, "a")
    with monkeypatch.context() as patient:
        # While both come back, the machine may stand still for a moment.
        patient.setattr(seats, "GONE_S", 30.0)
        cut_off(postgres_url)
        for _ in range(3):
            for one in (first, second):
                assert one.keep(Report(), 0.0).inherited is None
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        for one in (first, second):
            assert one.keep(Report(), 0.0).inherited is None
    assert owner(engine) == "a"
    first.leave()
    second.leave()


def test_one_that_stays_away_finds_itself_given_up(engine: sa.Engine, postgres_url: str) -> None:
    first, second = seated(engine, "a"), seated(engine, "b")
    add_job(engine, "a")
    cut_off(postgres_url)
    until_inherited(second)
    assert owner(engine) == "b"
    with pytest.raises(SeatLostError):
        keep_on(first)
    # What it still writes of the job changes nothing.
    late = Ledger(engine, "a")
    assert not late.finish("job", Outcome("completed", 1, 1), Price(1, 1), 1.0)
    late.checkpoint("job", [1], "late", None, 1.0)
    row = Ledger(engine).job("job")
    assert row is not None
    assert (row["state"], row["text"]) == ("queued", None)
    assert Ledger(engine, "b").finish("job", Outcome("completed", 1, 1), Price(1, 1), 1.0)
    second.leave()


def test_one_that_stands_still_is_cut_off(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "SILENT_S", 0.5)
    first, second = seated(engine, "a"), seated(engine, "b")
    add_job(engine, "a")
    until_inherited(second)
    assert owner(engine) == "b"
    with pytest.raises(SeatLostError):
        keep_on(first)
    second.leave()


def test_jobs_for_models_that_nobody_here_serves_are_left_open(engine: sa.Engine) -> None:
    add_job(engine, None, "of-another", model="other")
    add_job(engine, None, "of-its-adapter", model="m:mine")
    one = Seats(engine, "a", "", MODELS)
    assert [row["id"] for row in one.take(0.0).jobs] == ["of-its-adapter"]
    assert owner(engine, "of-another") is None
    other = Seats(engine, "b", "", ("other",))
    assert [row["id"] for row in other.take(0.0).jobs] == ["of-another"]
    one.leave()
    other.leave()


def test_of_many_that_want_what_one_left_each_job_is_one_gateways(engine: sa.Engine) -> None:
    gone = seated(engine, "gone")
    heirs = [seated(engine, f"heir-{n}") for n in range(4)]
    for n in range(20):
        add_job(engine, "gone", f"job-{n}")
    gone.leave()
    found: list[str] = []

    def look(one: Seats) -> None:
        for _ in range(5):
            left = one.keep(Report(), 0.0).inherited
            found.extend(row["id"] for row in left.jobs) if left is not None else None

    threads = [threading.Thread(target=look, args=(one,)) for one in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"job-{n}" for n in range(20))
    for one in heirs:
        one.leave()


def until_one_waits(engine: sa.Engine, timeout_s: float = 10.0) -> None:
    """Until a session waits for what another one has locked."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        with engine.connect() as db:
            if db.exec_driver_sql(query).scalar_one():
                return
        time.sleep(0.02)
    raise AssertionError("nobody waits")


def test_of_two_that_come_at_once_one_goes_on_with_a_job(engine: sa.Engine) -> None:
    for n in range(3):
        add_job(engine, "long-gone", f"job-{n}")
    other = Seats(engine, "b", "", MODELS)
    found: list[str] = []

    def come() -> None:
        found.extend(row["id"] for row in other.take(0.0).jobs)

    coming = threading.Thread(target=come)
    with writing(engine) as db:
        row = {"id": "a", "number": 7, "url": "", "report": "{}", "seen_s": 0.0, "ended": False}
        db.execute(sa.insert(gateways).values(row))
        found.extend(row["id"] for row in inherit(db, "a", MODELS, 0.0).jobs)
        coming.start()
        until_one_waits(engine)
    coming.join()
    assert sorted(found) == ["job-0", "job-1", "job-2"]
    assert owner(engine, "job-0") == "a"
    other.leave()


def test_what_the_heir_cannot_serve_is_a_third_ones_that_can(engine: sa.Engine) -> None:
    gone = seated(engine, "gone")
    heir = Seats(engine, "heir", "", ("another",))
    heir.take(0.0)
    third = Seats(engine, "third", "", MODELS)
    third.take(0.0)
    add_job(engine, "gone")
    gone.leave()
    heir.keep(Report(), 0.0)
    assert owner(engine) == "gone"
    left = third.keep(Report(), 0.0).inherited
    assert left is not None
    assert [row["id"] for row in left.jobs] == ["job"]
    assert owner(engine) == "third"
    assert heir.keep(Report(), 0.0).inherited is None
    assert third.keep(Report(), 0.0).inherited is None
    heir.leave()
    third.leave()


def test_who_has_the_number_of_a_killed_ones_session_is_not_cut_off(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = seated(engine, "a"), seated(engine, "b")
    monkeypatch.setattr(seats, "SILENT_S", -1.0)
    with engine.connect() as stranger:
        pid = stranger.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with writing(engine) as db:
            db.execute(sa.update(gateways).where(gateways.c.id == "b").values(pid=pid))
        one.keep(Report(), 0.0)
        stranger.exec_driver_sql("SELECT pg_sleep(0.2)")
    one.leave()
    other.leave()


def test_on_sqlite_there_is_one_and_the_next_goes_on(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'm.db'}")
    first = Seats(engine, "a", "", MODELS)
    assert not first.are_several
    assert not first.take(0.0)
    add_job(engine, "a")
    # It was killed: it did not say that it leaves.
    second = Seats(engine, "b", "", MODELS)
    assert [row["id"] for row in second.take(0.0).jobs] == ["job"]
    with writing(engine) as db:
        assert list(db.execute(sa.select(gateways.c.id)).scalars()) == ["b"]
    assert second.keep(REPORT, 0.0) == seats.Round()
    second.leave()
    engine.dispose()
