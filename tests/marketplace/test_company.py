"""A gateway among others: what goes wrong within it does not have it taken for dead."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from airan.core.clock import SystemClock
from airan.core.errors import UnavailableError
from marketplace.siblings.company import Company
from marketplace.siblings.sibling import Report
from marketplace.store.connect import open_database
from marketplace.store.seats import Seats
from marketplace.store.takeover import Inheritance
from tests.marketplace.site import eventually
from tests.marketplace.test_seats import MODELS, add_job, seated, until_inherited


class Figures:
    """How a gateway stands; one time it cannot be told."""

    def __init__(self) -> None:
        self.n_told = 0
        self.fails = False

    def report(self) -> Report:
        self.n_told += 1
        if self.fails:
            raise KeyError("an engine that has just gone")
        return Report(stats={"told": self.n_told})


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[sa.Engine]:
    engine = open_database(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
async def company(engine: sa.Engine) -> AsyncIterator[tuple[Company, Figures]]:
    figures = Figures()
    seats = Seats(engine, "one", "", MODELS)
    company = Company(seats, SystemClock(), figures.report, lambda _, __: None)
    await company.take_seat()
    company.start()
    yield company, figures
    await company.stop()


async def test_what_fails_once_is_gone_on_with_at_the_next_beat(
    engine: sa.Engine, company: tuple[Company, Figures]
) -> None:
    other = await asyncio.to_thread(seated, engine, "gone")
    add_job(engine, "gone")
    asked, found = list[str](), list[str]()

    async def unlucky(left: Inheritance) -> None:
        asked.extend(row["id"] for row in left.jobs)
        if asked == ["job"]:
            raise UnavailableError("the database is away", remedy="wait")
        found.extend(row["id"] for row in left.jobs)

    later = list[str]()

    async def next_one(left: Inheritance) -> None:
        later.extend(row["id"] for row in left.jobs)

    await company[0].add_heir(unlucky)
    await company[0].add_heir(next_one)
    await asyncio.to_thread(other.leave)
    await eventually(lambda: later)
    assert (asked, found, later) == (["job"] * 2, ["job"], ["job"])


async def test_one_that_is_about_to_stop_takes_nothing_over(
    engine: sa.Engine, company: tuple[Company, Figures]
) -> None:
    other = await asyncio.to_thread(seated, engine, "gone")
    third = await asyncio.to_thread(seated, engine, "third")
    add_job(engine, "gone")
    await company[0].rest()
    await asyncio.to_thread(other.leave)
    left = await asyncio.to_thread(until_inherited, third)
    assert [row["id"] for row in left.jobs] == ["job"]
    await asyncio.to_thread(third.leave)


async def test_an_error_of_its_own_does_not_end_its_beat(
    company: tuple[Company, Figures], caplog: pytest.LogCaptureFixture
) -> None:
    figures = company[1]
    figures.fails = True
    await eventually(lambda: "cannot be seen" in caplog.text)
    figures.fails = False
    n_before = figures.n_told
    await eventually(lambda: figures.n_told > n_before + 1)


async def test_it_is_heard_while_all_threads_for_other_work_are_busy(
    company: tuple[Company, Figures],
) -> None:
    free = threading.Event()
    # More than the default executor has threads.
    n_busy = 5 + (os.cpu_count() or 1)
    busy = [asyncio.create_task(asyncio.to_thread(free.wait, 60.0)) for _ in range(n_busy)]
    try:
        n_before = company[1].n_told
        await eventually(lambda: company[1].n_told > n_before + 2)
    finally:
        free.set()
        await asyncio.gather(*busy)
