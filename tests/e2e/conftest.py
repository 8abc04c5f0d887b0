"""One real site for all end-to-end tests: `airan up` as a user starts it, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from airan.core.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
MODEL = "SmolLM2-135M-Instruct"
PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}


def eventually(true: Callable[[], bool], what: str, within_s: float) -> None:
    """Waits for `true()`; fails naming `what` after `within_s` seconds."""
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)


@dataclass
class Site:
    """A running site and how tests reach it."""

    state_dir: Path
    front: subprocess.Popen[str]
    environ: dict[str, str]
    key: str = ""

    @property
    def body(self) -> dict[str, Any]:
        return json.loads((self.state_dir / "run" / "site.json").read_text())

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.body['config']['ports']['gateway']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.body['config']['ports']['dashboard']}"

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.body['admin_key']}"}

    def client(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        options.setdefault("max_retries", 0)
        return openai.OpenAI(
            api_key=key or self.key, base_url=f"{self.gateway_url}/v1", timeout=90, **options
        )

    def airan(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "airan", *arguments],
            env=self.environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def airan_json(self, *arguments: str) -> Any:
        done = self.airan(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stats(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.gateway_url}/admin/v1/stats", headers=self.admin, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.gateway_url}/readyz", timeout=10)
            return answer.status_code == 200 and answer.json()["status"] == "ready"
        except (httpx.HTTPError, ValueError):
            return False

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AIRAN_SITE_INSTANCE") == self.body["instance"]:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def pid_of(self, name: str) -> int:
        """Of the process with that in its name or its command line."""
        for process in self.processes():
            if name in " ".join(process.cmdline()) or name in process.name():
                return process.pid
        raise AssertionError(f"no process {name}")

    def service_pid(self, name: str) -> int:
        record = json.loads((self.state_dir / "run" / "services" / f"{name}.json").read_text())
        return int(record["pid"])


def start_site(state_dir: Path, **environ: str) -> Site:
    """Starts `airan up` and waits until it is ready."""
    variables = os.environ | PORTS | {"AIRAN_STATE_DIR": str(state_dir)} | environ
    variables["PYTHONPATH"] = str(ROOT)
    with (state_dir.parent / f"{state_dir.name}.out").open("w") as out:
        front = subprocess.Popen(
            [sys.executable, "-m", "airan", "up"],
            env=variables,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    site = Site(state_dir, front, variables)
    begun_s = time.monotonic()
    eventually(
        lambda: front.poll() is not None or (state_dir / "run" / "site.json").exists(),
        "site.json",
        90,
    )
    eventually(lambda: front.poll() is not None or site.ready(), "the gateway is ready", 120)
    assert front.poll() is None, (state_dir.parent / f"{state_dir.name}.out").read_text()
    print(f"site ready after {time.monotonic() - begun_s:.1f} s")
    made = site.airan_json("key", "create", "tester")
    site.key = made["key"]
    return site


def stop_site(site: Site) -> None:
    """Ctrl-C, and nothing may be left."""
    if site.front.poll() is None:
        site.front.send_signal(signal.SIGINT)
        assert site.front.wait(60) == 0
    assert site.processes() == []


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    (grpc_port,) = free_ports(1)
    running = start_site(
        tmp_path_factory.mktemp("site") / "state",
        AIRAN_CLOCK__START="03:00",
        AIRAN_MARKET__GRPC_PORT=str(grpc_port),
    )
    yield running
    stop_site(running)
