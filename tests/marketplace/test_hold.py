"""An SQLite database is one gateway's: who comes second is refused, and a death frees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airan.core.config import SiteConfig
from airan.core.errors import UnavailableError
from airan.site.launch import check_database
from marketplace.gateway import alone
from marketplace.store.hold import Hold, check_free

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from marketplace.store.hold import Hold
hold = Hold(sys.argv[1])
hold.take()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'market.db'}"


def test_the_second_gateway_is_refused_until_the_first_ends(sqlite_url: str) -> None:
    first, second = Hold(sqlite_url), Hold(sqlite_url)
    first.take()
    first.take()
    with pytest.raises(UnavailableError, match="another gateway works on the database") as caught:
        second.take()
    assert "PostgreSQL" in (caught.value.remedy or "")
    first.close()
    second.take()
    second.close()


def test_a_gateway_that_is_killed_frees_it(sqlite_url: str) -> None:
    command = (sys.executable, "-c", HOLDER, sqlite_url)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError):
            check_free(sqlite_url, patience_s=0.0)
        holder.kill()
    check_free(sqlite_url)


async def test_a_gateway_waits_a_while_for_the_one_before_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_WAIT_S", 0.3)
    first = await alone.take_hold(sqlite_url)
    assert first is not None
    with pytest.raises(UnavailableError):
        await alone.take_hold(sqlite_url)
    first.close()
    second = await alone.take_hold(sqlite_url)
    assert second is not None
    second.close()


async def test_on_postgresql_nobody_is_refused(postgres_url: str) -> None:
    assert await alone.take_hold(postgres_url) is None
    check_database(SiteConfig.model_validate({"market": {"database_url": postgres_url}}))


def test_a_database_that_is_not_there_is_named() -> None:
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        check_free("postgresql://ada:secret@127.0.0.1:1/none", patience_s=0.0)
    assert "secret" not in str(caught.value)


async def test_a_folder_is_one_gateways_or_that_of_several_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_WAIT_S", 0.0)
    held = [await alone.lock_folder(tmp_path, shared=True) for _ in range(2)]
    with pytest.raises(UnavailableError, match="another gateway keeps"):
        await alone.lock_folder(tmp_path)
    for one in held:
        os.close(one)
    held = [await alone.lock_folder(tmp_path)]
    for shared in (False, True):
        with pytest.raises(UnavailableError, match="another gateway keeps"):
            await alone.lock_folder(tmp_path, shared=shared)
    os.close(held[0])
