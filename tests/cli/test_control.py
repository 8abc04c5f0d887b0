"""The orchestrator's commands against a real control plane."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from airan.cli import context as cli_context
from airan.cli.main import app
from airan.core.errors import ConfigError, ForbiddenError, InvalidInputError, NotFoundError
from airan.core.ports import free_ports
from orchestrator.api.client import TlsFiles
from orchestrator.control import ControlPlane
from orchestrator.policy import CalendarEntry, Policy, Reservation
from orchestrator.service import ControlSettings, RemoteSettings, running
from orchestrator.views import SlotReport


class Cli:
    """The command line, pointed at one control plane."""

    def __init__(self, control: ControlPlane, port: int) -> None:
        self.control = control
        self.options = ["--remote", f"127.0.0.1:{port}"]

    async def __call__(self, *words: str) -> str:
        """What the command prints; its error is raised."""
        result = await asyncio.to_thread(CliRunner().invoke, app, [*self.options, *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    async def json(self, *words: str) -> Any:
        return json.loads(await self(*words, "--json"))


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    settings = ControlSettings(
        site="edge-1",
        state_dir=tmp_path / "state",
        site_started_s=1.0,
        mig_create_ms=10.0,
        mig_destroy_ms=5.0,
        interval_ms=50,
        policy=Policy("static", ran_share=0.3, notice_ms=200),
    )
    async with running(settings) as (control, port):
        yield Cli(control, port)


async def test_a_gpu_is_drained_and_taken_back(cli: Cli) -> None:
    (gpu,) = await cli.json("gpu", "list")
    assert "SIMULATED" in await cli("gpu", "list")
    drained = await cli("gpu", "drain", gpu["uuid"], "--reason", "new fans")
    assert "in maintenance: new fans" in drained
    assert (await cli.json("gpu", "list"))[0]["maintenance_reason"] == "new fans"
    (node,) = await cli.json("node", "list")
    assert (node["gpus"], node["gpus_in_maintenance"]) == (1, 1)
    assert "in maintenance" in await cli("node", "list")
    assert "healthy" in await cli("gpu", "undrain", gpu["uuid"])
    with pytest.raises(NotFoundError, match="GPU-none"):
        await cli("gpu", "drain", "GPU-none", "--reason", "why not")


async def test_a_policy_is_set_with_every_field(cli: Cli) -> None:
    words = "time_of_day --ran-share 0.5 --headroom 0.2 --min-ran-share 0.2 --max-ran-share 0.9"
    words += " --min-ai-share 0.05 --max-ai-share 0.8 --hysteresis-share 0.03 --min-lease-s 9"
    words += " --notice-ms 300 --unit gpu --drift report --time-zone Asia/Tokyo"
    at = ("--at", "mon,tue 07:00=0.7", "--at", "22:30=0.2")
    reserve = ("--reserve", "acme=32", "--reserve", "beta=16")
    await cli("policy", "set", *words.split(), *at, *reserve)
    assert cli.control.policy == Policy(
        "time_of_day",
        ran_share=0.5,
        headroom=0.2,
        min_ran_share=0.2,
        min_lease_s=9.0,
        notice_ms=300,
        unit="gpu",
        max_ran_share=0.9,
        min_ai_share=0.05,
        max_ai_share=0.8,
        hysteresis_share=0.03,
        time_zone="Asia/Tokyo",
        calendar=(CalendarEntry(("mon", "tue"), "07:00", 0.7), CalendarEntry((), "22:30", 0.2)),
        reservations=(Reservation("acme", 32), Reservation("beta", 16)),
        drift="report",
    )
    shown = await cli("policy", "get")
    assert "mon,tue 07:00=0.7" in shown
    assert "acme=32" in shown
    # What is not named keeps its value.
    await cli("policy", "set", "--ran-share", "0.6")
    assert cli.control.policy.calendar[0].days == ("mon", "tue")
    assert cli.control.policy.ran_share == 0.6


async def test_a_dry_run_shows_moves_and_loss_and_changes_nothing(cli: Cli) -> None:
    before = cli.control.policy
    shown = await cli("policy", "set", "static", "--ran-share", "0.9", "--dry-run")
    assert "would lead to" in shown
    assert "expected loss: 0 leases revoked" in shown
    change = await cli.json("policy", "set", "static", "--ran-share", "0.9", "--dry-run")
    assert change["plan"]["state"] == "dry-run"
    assert change["moves"]
    assert set(change["loss"]) == {
        "leases_revoked",
        "ai_sms_lost",
        "ran_shortfall_sms",
        "pause_s",
    }
    assert cli.control.policy == before


async def test_a_policy_comes_from_a_file_and_options_win(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "kind: time_of_day\nran_share: 0.4\nnotice_ms: 250\n"
        "calendar:\n- {days: [sat], start: '08:00', ran_share: 0.2}\n"
        "- {start: '20:00', ran_share: 0.6}\nreservations:\n- {tenant: acme, sm_count: 8}\n"
    )
    await cli("policy", "set", "--file", str(file), "--ran-share", "0.55")
    policy = cli.control.policy
    assert (policy.kind, policy.ran_share, policy.notice_ms) == ("time_of_day", 0.55, 250)
    assert policy.calendar == (
        CalendarEntry(("sat",), "08:00", 0.2),
        CalendarEntry((), "20:00", 0.6),
    )
    assert policy.reservations == (Reservation("acme", 8),)


@pytest.mark.parametrize(
    "text",
    ["colour: red\n", "- 1\n", "{", "calendar: [7]\n", "ran_share: much\n", "reservations: 3\n"],
)
async def test_a_policy_file_that_is_none_is_named(cli: Cli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        await cli("policy", "set", "--file", str(file))


@pytest.mark.parametrize(
    "words",
    [
        ("--at", "07:00"),
        ("--at", "someday 07:00=0.5"),
        ("--at", "mon tue 07:00=0.5"),
        ("--at", "25:00=0.5"),
        ("--reserve", "acme"),
        ("--reserve", "acme=0"),
        ("--reserve", "=5"),
    ],
)
async def test_what_is_no_entry_is_refused(cli: Cli, words: tuple[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        await cli("policy", "set", *words)


async def test_plans_are_listed_and_shown(cli: Cli) -> None:
    change = await cli.json("policy", "set", "static", "--ran-share", "0.9")
    generation = change["plan"]["generation"]
    assert generation in [plan["generation"] for plan in await cli.json("plan", "list")]
    shown = await cli("plan", "show", str(generation))
    assert f"Plan {generation}" in shown
    assert (await cli.json("plan", "show"))["generation"] >= generation


async def test_a_lease_is_revoked(cli: Cli) -> None:
    leases = cli.control.leases
    async with asyncio.timeout(60):
        for number in itertools.count(1):
            report = SlotReport("cell-1", float(number), slots=1, demand_share=0.1)
            await cli.control.take_report(report)
            if leases.free():
                break
            await asyncio.sleep(0.05)
    # A holder without a watch loses its lease after a while, however long the commands take.
    watch = leases.watch("engine")
    await anext(watch)
    lease = await leases.acquire("engine", os.getpid(), 0, 60_000)
    revoked = await cli("lease", "revoke", lease.id, "--reason", "a test")
    assert f"{lease.id} is revoking" in revoked
    await leases.release(lease.id)
    await watch.aclose()
    assert "has ended: revoked" in await cli("lease", "revoke", lease.id, "--reason", "again")
    assert (await cli.json("lease", "list", "--ended"))[0]["id"] == lease.id
    with pytest.raises(NotFoundError):
        await cli("lease", "revoke", "lease-none", "--reason", "why not")


async def test_events_are_listed_and_watched(cli: Cli) -> None:
    first = cli.control.log.record("test.first", "one [of two]")
    cli.control.log.record("test.last", "two")
    listed = await cli.json("event", "list", "--after", str(first.seq - 1), "--limit", "1")
    assert listed == [asdict(first)]
    assert "one [of two]" in await cli("event", "list")
    watched = await cli("event", "watch", "--after", str(first.seq - 1), "--count", "2", "--json")
    assert [json.loads(line)["kind"] for line in watched.splitlines()] == [
        "test.first",
        "test.last",
    ]
    assert "test.first" in await cli("event", "watch", "--count", str(first.seq))


async def test_the_audit_log_names_who_and_what(cli: Cli) -> None:
    await cli("policy", "set", "static", "--ran-share", "0.8")
    (entry,) = await cli.json("audit", "list", "--method", "PolicyService/SetPolicy")
    assert (entry["actor"], entry["role"], entry["outcome"]) == ("local", "admin", "ok")
    assert "local" in await cli("audit", "list")
    assert await cli.json("audit", "list", "--actor", "nobody") == []


async def test_certificates_open_another_machines_control_plane(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    make = ["certs", "make", str(pki), "--host", "127.0.0.1", "--client", "vera=viewer"]
    result = CliRunner().invoke(app, [*make, "--client", "otto=operator"])
    assert result.exit_code == 0, result.output
    assert "vera.pem" in result.stdout
    assert "already" in CliRunner().invoke(app, make).stdout
    (port,) = free_ports(1)
    far = RemoteSettings("127.0.0.1", port, TlsFiles.of(pki, "server"))
    settings = ControlSettings("edge-1", tmp_path / "state", 1.0, interval_ms=50, remote=far)
    async with running(settings) as (control, _):
        cli = Cli(control, port)
        cli.options += ["--tls-dir", str(pki), "--as", "vera"]
        assert (await cli.json("policy", "get"))["kind"] == "demand"
        with pytest.raises(ForbiddenError) as refused:
            await cli("policy", "set", "static")
        assert cli_context.exit_code(refused.value) == 6
        cli.options[-1] = "otto"
        await cli("policy", "set", "static", "--ran-share", "0.5")
        assert control.policy.ran_share == 0.5


def test_a_client_without_a_role_is_refused(tmp_path: Path) -> None:
    words = ["certs", "make", str(tmp_path), "--host", "localhost", "--client", "vera"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InvalidInputError)
