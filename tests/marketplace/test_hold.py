"""A database is one gateway's: who comes second is refused, and a death frees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from airan.core.config import SiteConfig
from airan.core.errors import UnavailableError
from airan.site.launch import check_database
from marketplace.gateway import alone
from marketplace.store.hold import Hold, check_free
from orchestrator.store.database import engine_of

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from marketplace.store.hold import Hold
hold = Hold(sys.argv[1])
hold.take()
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_gateway_is_refused_until_the_first_ends(database_url: str) -> None:
    first, second = Hold(database_url), Hold(database_url)
    first.take()
    first.take()
    with pytest.raises(UnavailableError, match="another gateway works on the database") as caught:
        second.take()
    assert "market.peers" in (caught.value.remedy or "")
    assert first.keep()
    first.close()
    second.take()
    second.close()


def test_a_gateway_that_is_killed_frees_it(database_url: str) -> None:
    command = (sys.executable, "-c", HOLDER, database_url)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError):
            check_free(database_url, patience_s=0.0)
        holder.kill()
    check_free(database_url)


def cut_off(url: str) -> None:
    """Ends every other session, as a failing line would."""
    engine = engine_of(url)
    with engine.begin() as db:
        db.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    engine.dispose()


def test_a_gateway_that_was_cut_off_takes_it_again(postgres_url: str) -> None:
    first, second = Hold(postgres_url), Hold(postgres_url)
    first.take()
    cut_off(postgres_url)
    assert first.keep()
    with pytest.raises(UnavailableError):
        second.take()
    for hold in (first, second):
        hold.close()


def test_a_gateway_that_was_cut_off_knows_when_another_has_it(postgres_url: str) -> None:
    first, second = Hold(postgres_url), Hold(postgres_url)
    first.take()
    cut_off(postgres_url)
    second.take()
    assert not first.keep()
    for hold in (first, second):
        hold.close()


async def test_a_gateway_waits_a_while_for_the_one_before_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_WAIT_S", 0.3)
    first = await alone.take_hold(database_url)
    with pytest.raises(UnavailableError):
        await alone.take_hold(database_url)
    first.close()
    (await alone.take_hold(database_url)).close()


def test_a_site_is_refused_before_anything_of_it_starts(postgres_url: str) -> None:
    config = SiteConfig.model_validate({"market": {"database_url": postgres_url}})
    check_database(config)
    gateway = Hold(postgres_url)
    gateway.take()
    with pytest.raises(UnavailableError, match="another gateway"):
        check_database(config)
    gateway.close()


def test_a_database_that_is_not_there_is_named() -> None:
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        check_free("postgresql://ada:secret@127.0.0.1:1/none", patience_s=0.0)
    assert "secret" not in str(caught.value)
