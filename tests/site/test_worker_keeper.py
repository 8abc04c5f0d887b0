"""Layer 1's worker under the MPS daemon and without it; processes of the tests' own stand for the
daemon, and a scripted worker for the GPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from airan.core import config
from airan.site import mps_watch
from airan.site import runtime as site_runtime
from airan.site.mps_watch import MpsWatch
from airan.site.processes import ProcessRecord
from airan.site.runtime import SiteRuntime
from airan.site.services import daemon_record, ready_file, tell_ready
from airan.site.worker_keeper import WorkerKeeper
from tests import waiting

PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}


class Worker:
    """What a keeper sees of a cell group's worker."""

    def __init__(self) -> None:
        self.pid, self.is_home, self.can_go_home = 11, True, False
        self.calls: list[str] = []

    def leave(self, at: int) -> None:
        self.calls.append(f"leave {at}")
        self.pid, self.is_home = 12, False

    def keep(self) -> None:
        self.calls.append("keep")

    def go_home(self) -> None:
        if self.can_go_home:
            self.pid, self.is_home = 13, True


class Daemon:
    """A process that stands for the daemon, told of as the `mps` service does."""

    def __init__(self, site: SiteRuntime) -> None:
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        ProcessRecord.of(self._process.pid).save(daemon_record(self._site))
        tell_ready(self._site, "mps")

    def kill(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()


@pytest.fixture
def site(tmp_path: Path) -> SiteRuntime:
    given = {
        "AIRAN_STATE_DIR": str(tmp_path),
        "AIRAN_NODE__DRIVER": "nvml",
        "AIRAN_NODE__PARTITION": "green",
    }
    runtime = site_runtime.resolve(config.load(None, PORTS | given))
    runtime.save()
    (runtime.run_dir / "services").mkdir()
    return runtime


@pytest.fixture
def daemon(site: SiteRuntime) -> Iterator[Daemon]:
    made = Daemon(site)
    yield made
    made.kill()


eventually = partial(waiting.until, within_s=30.0)


@pytest.fixture(params=["descriptor", "asking"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With process descriptors, and one that has none."""
    if request.param == "asking":

        def none(_pid: int) -> int:
            raise OSError("not implemented")

        monkeypatch.setattr(os, "pidfd_open", none)
        monkeypatch.setattr(mps_watch, "_ASK_S", 0.0)


@pytest.mark.usefixtures("kernel")
def test_the_daemons_death_is_seen_once_and_the_next_daemon_is_found(
    site: SiteRuntime, daemon: Daemon
) -> None:
    watch = MpsWatch(site)
    assert not watch.is_there
    assert not watch.has_died()
    daemon.start()
    watch.look()
    assert watch.is_there
    assert not watch.has_died()
    daemon.kill()
    eventually(watch.has_died)
    assert not watch.is_there
    assert not watch.has_died()
    # What the dead one left behind is no daemon.
    watch.look()
    assert not watch.is_there
    daemon.start()
    watch.look()
    assert watch.is_there
    watch.close()


def test_a_daemon_that_does_not_answer_yet_is_none(site: SiteRuntime, daemon: Daemon) -> None:
    daemon.start()
    ready_file(site, "mps").unlink()
    assert not MpsWatch(site).is_there


def test_slots_go_on_outside_when_the_daemon_dies_and_come_back_under_the_next(
    site: SiteRuntime, daemon: Daemon
) -> None:
    daemon.start()
    keeper, worker = WorkerKeeper(site), Worker()
    under, outside = keeper.places()
    assert under.is_open()
    keeper.begin(worker)  # type: ignore[arg-type]
    ready = ready_file(site, "l1")
    assert ready.exists()
    keeper.heed()
    keeper.keep()
    assert worker.calls == ["keep"]
    daemon.kill()

    def left() -> bool:
        keeper.heed()
        return "leave 0" in worker.calls

    eventually(left)
    assert not under.is_open()
    assert outside.is_open()
    keeper.keep()
    # The engine does not start beside slots that would take turns with it.
    assert not ready.exists()
    daemon.start()
    keeper.keep()
    assert under.is_open()
    worker.can_go_home = True
    keeper.keep()
    assert ready.exists()
    assert keeper.pid == 13
    told = [(event.kind, event.severity, event.message) for event in site.supervision.events(0)]
    assert told == [
        (
            "worker.moved",
            "warning",
            "l1 goes on outside of MPS, worker 12: the daemon died",
        ),
        ("worker.moved", "info", "l1 goes on under MPS again, worker 13"),
    ]


def test_a_worker_that_was_replaced_is_told_of(site: SiteRuntime, daemon: Daemon) -> None:
    daemon.start()
    keeper, worker = WorkerKeeper(site), Worker()
    keeper.begin(worker)  # type: ignore[arg-type]
    worker.pid = 14
    keeper.keep()
    keeper.keep()
    (event,) = site.supervision.events(0)
    assert (event.kind, event.message) == ("worker.replaced", "l1 worker 11 ended; 14 goes on")
    assert ready_file(site, "l1").exists()
