"""Whatever process of the site is killed, the others bring it back; a stop leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from airan.core import config
from airan.site import runtime as site_runtime
from airan.site.processes import ProcessLock, ProcessRecord, members, sweep
from airan.site.runtime import SiteRuntime
from tests import waiting

# Supervisor and warden run with two small services of the test's own in place of the site's.
SUPERVISOR = """
import sys
from pathlib import Path
from airan.site import runtime, supervisor
from airan.site.services import ServiceSpec
services = (ServiceSpec("control", "test_service", "x"), ServiceSpec("engine", "test_service", "x"))
keep = "--end-with-warden" not in sys.argv
raise SystemExit(
    supervisor.Supervisor(runtime.load(Path(sys.argv[1])), keep, services=services).run()
)
"""
SERVICE = "import time\nwhile True: time.sleep(1)\n"
ROOT = Path(__file__).resolve().parents[2]


eventually = partial(waiting.until, within_s=60.0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SiteRuntime]:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "test_service.py").write_text(SERVICE)
    (modules / "test_supervisor.py").write_text(SUPERVISOR)
    ports = {
        f"AIRAN_PORTS__{name}": "0"
        for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
    }
    loaded = config.load(None, ports | {"AIRAN_STATE_DIR": str(tmp_path / "state")})
    runtime = site_runtime.resolve(loaded)
    runtime.save()
    yield runtime
    (runtime.run_dir / "stop").touch()
    sweep(runtime.instance)
    assert members(runtime.instance) == []


@pytest.fixture
def supervised(site: SiteRuntime) -> subprocess.Popen[bytes]:
    return start_supervisor(site)


def start_supervisor(site: SiteRuntime, *arguments: str) -> subprocess.Popen[bytes]:
    modules = site.config.state_dir.parent / "modules"
    environ = os.environ | {
        "PYTHONPATH": f"{modules}:{ROOT}",
        "AIRAN_SITE_INSTANCE": site.instance,
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "test_supervisor", str(site.config.state_dir), *arguments],
        env=environ,
        start_new_session=True,
    )
    eventually(lambda: bool(service(site, "engine") and service(site, "control")))
    return child


def service(site: SiteRuntime, name: str) -> ProcessRecord | None:
    record = ProcessRecord.load(site.run_dir / "services" / f"{name}.json")
    return record if record is not None and record.alive() else None


def pid_of(site: SiteRuntime, name: str) -> int:
    record = service(site, name)
    assert record is not None
    return record.pid


def test_a_killed_service_comes_back(
    site: SiteRuntime, supervised: subprocess.Popen[bytes]
) -> None:
    before = pid_of(site, "engine")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: (now := service(site, "engine")) is not None and now.pid != before)
    supervised.terminate()
    assert supervised.wait(60) == 0
    assert members(site.instance) == []


def test_a_new_supervisor_adopts_what_a_killed_one_left_running(
    site: SiteRuntime, supervised: subprocess.Popen[bytes]
) -> None:
    before = (pid_of(site, "control"), pid_of(site, "engine"))
    supervised.kill()
    supervised.wait()
    second = start_supervisor(site)
    eventually(ProcessLock(site.run_dir / "supervisor.lock").held)
    assert (pid_of(site, "control"), pid_of(site, "engine")) == before
    # What it adopted it also brings back, though it is no child of its own.
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: (now := service(site, "engine")) is not None and now.pid != before[1])
    second.terminate()
    assert second.wait(60) == 0
    assert members(site.instance) == []


def test_a_second_supervisor_leaves_the_first_alone(
    site: SiteRuntime, supervised: subprocess.Popen[bytes]
) -> None:
    eventually(ProcessLock(site.run_dir / "supervisor.lock").held)
    before = pid_of(site, "engine")
    assert start_supervisor(site).wait(60) == 0
    assert supervised.poll() is None
    assert pid_of(site, "engine") == before
    supervised.terminate()
    supervised.wait(60)


def test_a_demo_site_ends_when_its_front_is_killed(site: SiteRuntime) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from airan.site.processes import *\n"
            "lock = ProcessLock(Path(sys.argv[1])); assert lock.acquire(); print('held', flush=1)\n"
            "time.sleep(60)",
            str(site.run_dir / "warden.lock"),
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    supervisor = start_supervisor(site, "--end-with-warden")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert supervisor.wait(60) == 0
    assert members(site.instance) == []


def test_a_recycled_pid_is_not_taken_for_ours() -> None:
    me = ProcessRecord.of(os.getpid())
    assert me.alive()
    assert not ProcessRecord(me.pid, me.create_time_s - 100.0).alive()


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    first, second = ProcessLock(tmp_path / "l"), ProcessLock(tmp_path / "l")
    assert first.acquire()
    assert not second.acquire()
    assert second.held()
    first.release()
    assert not second.held()
    assert second.acquire()
    second.release()


def test_ending_a_process_that_ignores_sigterm_kills_it() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
            "time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"AIRAN_SITE_INSTANCE": "test-stubborn"},
    )
    assert child.stdout is not None
    child.stdout.readline()
    record = ProcessRecord.of(child.pid)
    assert sweep("test-stubborn", grace_s=0.2) >= 1
    assert not record.alive()
    assert members("test-stubborn") == []
    child.wait(30)
    child.stdout.close()
