"""The dashboard as a process of its own, started before any other service."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from airan.core.config import PortsConfig, SiteConfig
from airan.site.runtime import resolve


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    ports = PortsConfig(gateway=0, dashboard=0, control=0, engine=0)
    runtime = resolve(SiteConfig(state_dir=tmp_path, ports=ports))
    runtime.save()
    with subprocess.Popen(
        [sys.executable, "-m", "airan.dashboard", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_it_serves_while_every_other_service_is_away_and_says_so(process) -> None:
    _, url = process
    with httpx.Client(trust_env=False, base_url=url, timeout=20) as client:
        assert client.get("/healthz").status_code == 200
        with client.stream("GET", "/events") as response:
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            snapshots = (json.loads(line.removeprefix("data: ")) for line in lines)
            first = next(message for message in snapshots if "problems" in message)
    assert {problem["service"] for problem in first["problems"]} == {"control", "gateway"}
    assert all("cannot be reached" in problem["message"] for problem in first["problems"])
    assert first["control"] is None
    assert first["market"] is None


def test_it_ends_in_order_on_sigterm(process) -> None:
    running, _ = process
    running.terminate()
    assert running.wait(30) == 0


def test_a_folder_without_a_site_is_named(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "airan.dashboard", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert str(tmp_path) in ended.stderr
