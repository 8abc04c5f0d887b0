"""The MPS daemon as a service of the site, with a fake daemon binary: its death starts the engine
anew after it, its servers go with it, and the site's events tell."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from airan.core import config
from airan.site import runtime as site_runtime
from airan.site import supervision_log
from airan.site.mps import servers_of
from airan.site.processes import ProcessLock, ProcessRecord, members, sweep
from airan.site.runtime import SiteRuntime
from airan.site.services import ready_file, services_of
from airan.site.supervision_log import SupervisionLog
from airan.site.supervisor import Supervisor, Watched
from tests import waiting

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "orchestrator" / "fake_mps_daemon.py"
PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}
# The real `mps` service; small ones of the test's own stand for its clients and for the others.
SUPERVISOR = """
import sys
from dataclasses import replace
from pathlib import Path
from airan.site import runtime, supervisor
from airan.site.services import services_of
site = runtime.load(Path(sys.argv[1]))
services = [
    one if one.name == "mps" else replace(one, module="test_service")
    for one in services_of(site.config)
    if one.name in ("control", "mps", "engine", "l1")
]
raise SystemExit(supervisor.Supervisor(site, True, services=tuple(services)).run())
"""
SERVICE = "import time\nwhile True: time.sleep(1)\n"


eventually = partial(waiting.until, within_s=60.0)


@pytest.fixture
def site() -> Iterator[SiteRuntime]:
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        modules = Path(folder) / "modules"
        modules.mkdir()
        (modules / "test_service.py").write_text(SERVICE)
        (modules / "test_supervisor.py").write_text(SUPERVISOR)
        given = {
            "AIRAN_STATE_DIR": f"{folder}/state",
            "AIRAN_NODE__DRIVER": "nvml",
            "AIRAN_NODE__PARTITION": "green",
            "AIRAN_GPU__MPS_BINARY": str(FAKE),
        }
        runtime = site_runtime.resolve(config.load(None, PORTS | given))
        runtime.save()
        server = server_file(runtime)
        server.parent.mkdir()
        server.touch()
        # The warden's part: without one the supervisor would start it, which would end it too.
        warden = ProcessLock(runtime.run_dir / "warden.lock")
        assert warden.acquire()
        child = subprocess.Popen(
            [sys.executable, "-m", "test_supervisor", str(runtime.config.state_dir)],
            env=os.environ
            | {"PYTHONPATH": f"{modules}:{ROOT}", "AIRAN_SITE_INSTANCE": runtime.instance},
            start_new_session=True,
        )
        try:
            eventually(lambda: all(pid_of(runtime, name) for name in ("mps", "engine", "l1")))
            yield runtime
        finally:
            (runtime.run_dir / "stop").touch()
            assert child.wait(60) == 0
            warden.release()
            sweep(runtime.instance)
            assert members(runtime.instance) == []


def server_file(site: SiteRuntime) -> Path:
    """Says that the fake daemon is to have a server; it writes its pid there."""
    return site.config.state_dir / "mps" / "with-server"


def pid_of(site: SiteRuntime, name: str) -> int:
    folder = site.run_dir if name == "mps-daemon" else site.run_dir / "services"
    record = ProcessRecord.load(folder / f"{name}.json")
    return record.pid if record is not None and record.alive() else 0


def kinds(site: SiteRuntime) -> list[tuple[str, str]]:
    events = site.supervision.events(0)
    return [(event.kind, event.message.split()[0]) for event in events]


def test_clients_start_when_the_daemon_answers_and_stopping_leaves_nothing(
    site: SiteRuntime,
) -> None:
    assert ready_file(site, "mps").exists()
    assert pid_of(site, "mps-daemon")
    assert (site.config.state_dir / "mps" / "pipe" / "said").read_text().startswith("get_server")
    assert kinds(site) == []


@pytest.mark.parametrize("killed", ["mps-daemon", "mps"])
def test_a_killed_daemon_comes_back_and_the_engine_starts_anew_after_it(
    site: SiteRuntime, killed: str
) -> None:
    names = ("mps", "mps-daemon", "engine")
    others = ("control", "l1")
    before = {name: pid_of(site, name) for name in (*names, *others)}
    eventually(lambda: server_file(site).read_text().isdecimal())
    server = ProcessRecord.of(int(server_file(site).read_text()))
    assert server in servers_of(before["mps-daemon"])
    os.kill(before[killed], signal.SIGKILL)
    eventually(lambda: all(pid_of(site, one) not in (0, before[one]) for one in names))
    # Who uses the GPU under a server that nobody can reach takes turns with the next one's clients.
    assert not server.alive()
    # Layer 1 goes on.
    assert {one: pid_of(site, one) for one in others} == {one: before[one] for one in others}
    told = kinds(site)
    assert told[0] == ("service.ended", "mps")
    for name in ("mps", "engine"):
        assert told.count(("service.ended", name)) == 1
        eventually(lambda name=name: ("service.restarted", name) in kinds(site))
    # No client starts before the daemon.
    order = [name for kind, name in kinds(site) if kind == "service.restarted"]
    assert order[0] == "mps"
    # The one that the killed process left is gone too.
    assert not ProcessRecord(before["mps-daemon"], 0.0).alive()


def test_the_engine_waits_for_the_slots_to_be_ready_and_outlives_them(site: SiteRuntime) -> None:
    config_on_gpu = site.config.model_copy(
        update={"gpu": site.config.gpu.model_copy(update={"layer1": "gpu"})}
    )
    specs = {one.name: one for one in services_of(config_on_gpu)}
    supervisor = Supervisor(site, True)
    mps, layer1, engine = (Watched(specs[name]) for name in ("mps", "l1", "engine"))
    supervisor._watched = [mps, layer1, engine]
    ready_file(site, "mps").touch()
    mps.record = layer1.record = ProcessRecord.of(os.getpid())
    assert not supervisor._has_what_it_needs(engine)
    assert supervisor._has_what_it_needs(layer1)
    ready_file(site, "l1").touch()
    assert supervisor._has_what_it_needs(engine)
    # Ready once, and dead now.
    layer1.record = None
    assert not supervisor._has_what_it_needs(engine)
    engine.record = ProcessRecord.of(os.getpid())
    supervisor._end_clients_of(layer1)
    assert engine.kill_at_s == math.inf


def test_only_a_site_that_shares_a_real_gpu_runs_a_daemon(tmp_path: Path) -> None:
    def names(**given: str) -> list[str]:
        environ = PORTS | {"AIRAN_STATE_DIR": str(tmp_path)} | given
        return [one.name for one in services_of(config.load(None, environ))]

    assert "mps" not in names()
    assert "mps" not in names(AIRAN_NODE__PARTITION="green")
    assert "mps" not in names(AIRAN_NODE__DRIVER="nvml")
    real = {"AIRAN_NODE__DRIVER": "nvml", "AIRAN_NODE__PARTITION": "mps"}
    assert "mps" in names(**real)
    assert "mps" not in names(**real, AIRAN_NODE__CLUSTER="auto")


def test_events_of_earlier_runs_and_lines_without_a_kind_are_left_out(tmp_path: Path) -> None:
    supervision_log.write(tmp_path, "l1", "ended (status -9)", "service.ended", "warning")
    started_s = time.time()
    log = SupervisionLog(tmp_path, started_s)
    assert log.events(0) == []
    supervision_log.write(tmp_path, "l1", "started, pid 7")
    supervision_log.write(tmp_path, "l1", "started, pid 8", "service.restarted")
    (event,) = log.events(0)
    assert (event.kind, event.severity, event.message) == (
        "service.restarted",
        "info",
        "l1 started, pid 8",
    )
    assert log.events(event.seq) == []
    with (tmp_path / supervision_log.FILE).open("a") as file:
        file.write('{"time_s": 1')
    assert log.events(event.seq) == []
    assert SupervisionLog(tmp_path / "none", started_s).events(0) == []
