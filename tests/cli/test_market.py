"""The commands of accounts and money against a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from airan.cli.main import app
from airan.cli.market_limits import micro, usd
from airan.core.config import PortsConfig, SiteConfig
from airan.core.errors import InvalidInputError, NotFoundError
from airan.site.processes import ProcessLock
from airan.site.runtime import SiteRuntime
from tests.marketplace.lora_files import KEYS, gguf
from tests.marketplace.site import ADMIN_KEY, MODEL, gateway_settings, running_gateway


class Cli:
    """The command line of a site."""

    def __init__(self, state_dir: Path) -> None:
        self.options = ["--state-dir", str(state_dir)]

    async def __call__(self, *words: str) -> str:
        """What the command prints; its error is raised."""
        result = await asyncio.to_thread(
            CliRunner(env={"COLUMNS": "200"}).invoke, app, [*self.options, *words]
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    async def json(self, *words: str) -> Any:
        return json.loads(await self(*words, "--json"))


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    async with running_gateway(gateway_settings(tmp_path / "gateway")) as url:
        ports = PortsConfig(gateway=urlsplit(url).port or 0)
        config = SiteConfig(state_dir=tmp_path / "state", ports=ports)
        site = SiteRuntime(config, "test", 0.0, 0.0, ADMIN_KEY)
        site.save()
        # What tells the commands that a site runs.
        lock = ProcessLock(site.run_dir / "supervisor.lock")
        assert lock.acquire()
        yield Cli(tmp_path / "state")
        lock.release()


async def test_adapters_are_added_listed_and_removed(cli: Cli, tmp_path: Path) -> None:
    await cli("tenant", "create", "acme")
    file = tmp_path / "mine.gguf"
    name = "blk.0.ffn_down.weight"
    pair = {f"{name}.lora_a": np.ones((4, 8)), f"{name}.lora_b": np.ones((8, 4))}
    file.write_bytes(gguf(KEYS, pair))
    row = await cli.json("model", "adapter", "add", MODEL, "mine", str(file), "--tenant", "acme")
    assert (row["model"], row["state"], row["rank"]) == (f"{MODEL}:mine", "ready", 4)
    said = await cli("model", "adapter", "add", MODEL, "ours", str(file))
    assert f"{MODEL}:ours is ready" in said
    listed = await cli("model", "adapter", "list")
    assert f"{MODEL}:mine" in listed
    assert "all" in listed
    assert len(await cli.json("model", "adapter", "list", "--tenant", "acme")) == 1
    file.write_bytes(b"no adapter")
    with pytest.raises(InvalidInputError, match="no GGUF"):
        await cli("model", "adapter", "add", MODEL, "bad", str(file))
    assert "no GGUF" in await cli("model", "adapter", "list")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        await cli("model", "adapter", "add", MODEL, "worse", str(tmp_path))
    assert "is removed" in await cli("model", "adapter", "remove", row["id"])
    with pytest.raises(NotFoundError):
        await cli("model", "adapter", "remove", row["id"])


async def test_tenants_projects_people_and_keys_are_managed(cli: Cli) -> None:
    made = await cli.json("tenant", "create", "acme", "--terms", "prepaid")
    assert "prepaid" in await cli("tenant", "list")
    assert (await cli.json("tenant", "weight", "acme", "3"))["weight"] == 3
    assert "has the weight 4" in await cli("tenant", "weight", made["id"], "4")
    policy = await cli.json("tenant", "policy", "acme", "regions=us,eu")
    assert policy["data_policy"] == "regions=eu,us"
    assert "the data policy: stay" in await cli("tenant", "policy", "acme", "stay")
    assert "is a peer" in await cli("tenant", "peer", "acme", "on")
    assert "is no peer" in await cli("tenant", "peer", "acme", "off")
    assert (await cli.json("peer", "list"))["data"] == []
    assert "Peers of" in await cli("peer", "list")
    project = await cli.json("project", "create", "acme", "web")
    words = ("--project", "web", "--scope", "inference", "--model", MODEL, "--days", "30")
    key = await cli.json("key", "create", made["id"], *words)
    assert (key["scopes"], key["models"], key["project_id"]) == (
        ["inference"],
        [MODEL],
        project["id"],
    )
    new = await cli.json("key", "rotate", key["id"], "--grace-hours", "1")
    assert new["replaces"] == key["id"]
    await cli("key", "revoke", new["id"])
    listed = await cli("key", "list")
    assert "revoked" in listed
    assert "valid until" in listed
    user = await cli.json("user", "add", "acme", "ada@acme.example", "--role", "owner")
    await cli("user", "disable", user["id"])
    assert "disabled" in await cli("user", "list", "--tenant", "acme")
    await cli("project", "archive", project["id"])
    assert "archived" in await cli("project", "list")


async def test_prices_budgets_and_quotas_are_set_and_shown(cli: Cli) -> None:
    await cli("tenant", "create", "acme")
    price = await cli.json(
        "price", "set", MODEL, "0.002", "0.006", "--tier", "flex", "--floor-percent", "40"
    )
    assert (price["input_micro_usd_per_1k"], price["spot_floor_permille"]) == (2000, 400)
    assert "0.006000" in await cli("price", "list")
    await cli("price", "withdraw", str(price["id"]))
    budget = await cli.json("budget", "set", "acme", "12.5", "--period", "day")
    assert "12.500000" in await cli("budget", "list", "acme")
    await cli("budget", "drop", budget["id"])
    assert await cli.json("budget", "list", "acme") == []
    await cli("quota", "set", "acme", "--concurrent-jobs", "4")
    (quota,) = await cli.json("quota", "list", "acme")
    assert (quota["concurrent_jobs"], quota["tokens_per_day"]) == (4, None)
    with pytest.raises(InvalidInputError, match="either a project or a key"):
        await cli("budget", "set", "acme", "1", "--project", "p", "--key", "k")
    with pytest.raises(NotFoundError):
        await cli("quota", "list", "nobody")


async def test_money_is_booked_checked_and_invoiced(cli: Cli, tmp_path: Path) -> None:
    await cli("tenant", "create", "acme")
    for _ in range(2):
        await cli("books", "pay", "acme", "5.25", "--reference", "bank-1")
    await cli("books", "credit", "acme", "1")
    assert "6.250000" in await cli("books", "account", "acme")
    assert "payment:bank-1" in await cli("books", "log", "--tenant", "acme")
    assert "all agrees" in await cli("books", "check")
    with pytest.raises(NotFoundError, match="was not billed"):
        await cli("books", "refund", "nothing")
    assert await cli.json("cost", "--bucket", "day") == []
    for kind, begin in (("pdf", b"%PDF-"), ("csv", b"invoice,"), ("json", b"{")):
        out = tmp_path / f"invoice.{kind}"
        await cli("invoice", "acme", "2026-11", "--out", str(out))
        assert out.read_bytes().startswith(begin)


def test_amounts_are_taken_exactly_or_not_at_all() -> None:
    assert [micro(text, "x") for text in ("0.1", "12", "0.000001")] == [100_000, 12_000_000, 1]
    assert usd(-1_500_000) == "-1.500000"
    for text in ("-1", "0.0000001", "much", "nan", "inf", ""):
        with pytest.raises(InvalidInputError, match="six decimals"):
            micro(text, "x")
