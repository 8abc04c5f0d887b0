"""The supervisor: starts the site's services, watches them, brings back what dies.

It can itself be killed: the warden (the process behind `airan up`) starts a new one, which adopts
the services that still run instead of starting them twice. In turn it watches the warden.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from airan.site import runtime as site_runtime
from airan.site import supervision_log
from airan.site.cores import keep_to_cores
from airan.site.processes import ProcessLock, ProcessRecord, sweep
from airan.site.runtime import SiteRuntime
from airan.site.services import (
    SERVICES,
    ServiceSpec,
    command,
    environment,
    ready_file,
    services_of,
)

POLL_S = 0.1
RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
SETTLED_S = 60.0
WARDEN_APPEARS_S = 5.0
STOP_GRACE_S = 8.0
END_S = 2.0
"""How long a service may take to end after what it needs has died."""
# The engine gives its lease back to the control plane as it stops, so that goes last.
STOP_LAST = "control"


@dataclass
class Watched:
    """One service, what runs for it now and how often it had to be brought back."""

    spec: ServiceSpec
    record: ProcessRecord | None = None
    child: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    next_start_s: float = 0.0
    kill_at_s: float = math.inf
    """When it is killed if it has not ended by itself."""

    def alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return self.record is not None and self.record.alive()


@dataclass
class Supervisor:
    """Keeps every service of `runtime` running until told to stop."""

    runtime: SiteRuntime
    keep_warden: bool
    """True: a killed warden is replaced. False: its death stops the site (`airan demo`)."""
    services: tuple[ServiceSpec, ...] = SERVICES
    _watched: list[Watched] = field(default_factory=list)
    _stopping: bool = False

    def run(self) -> int:
        """Runs until stopped; returns the exit status."""
        lock = ProcessLock(self.runtime.run_dir / "supervisor.lock")
        if not lock.acquire():
            return 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        ProcessRecord.of(os.getpid()).save(self.runtime.run_dir / "supervisor.json")
        self._watched = [self._adopt(spec) for spec in self.services]
        warden = ProcessLock(self.runtime.run_dir / "warden.lock")
        warden_seen, begun_s = False, time.monotonic()
        while not self._stopping and not stop_file(self.runtime.run_dir).exists():
            for service in self._watched:
                self._keep(service)
            if warden.held():
                warden_seen = True
            elif warden_seen or time.monotonic() - begun_s > WARDEN_APPEARS_S:
                if not self.keep_warden:
                    break
                self._log("warden", "died; starting another")
                spawn_detached(self.runtime, "airan.site.warden")
                warden_seen, begun_s = False, time.monotonic()
            time.sleep(POLL_S)
        self._end_services()
        lock.release()
        return 0

    def _stop(self) -> None:
        self._stopping = True

    def _record_path(self, spec: ServiceSpec) -> Path:
        return self.runtime.run_dir / "services" / f"{spec.name}.json"

    def _adopt(self, spec: ServiceSpec) -> Watched:
        record = ProcessRecord.load(self._record_path(spec))
        if record is None or not record.alive():
            return Watched(spec)
        try:
            ours = psutil.Process(record.pid).environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return Watched(spec)
        if ours.get("AIRAN_SITE_INSTANCE") != self.runtime.instance:
            return Watched(spec)
        self._log(spec.name, f"adopted, pid {record.pid}")
        return Watched(spec, record=record, started_s=time.monotonic())

    def _keep(self, service: Watched) -> None:
        if service.alive():
            if time.monotonic() > service.kill_at_s and service.record is not None:
                service.record.signal(signal.SIGKILL)
            if service.failures and time.monotonic() - service.started_s > SETTLED_S:
                service.failures = 0
            return
        now_s = time.monotonic()
        if service.record is not None:
            status = service.child.returncode if service.child else "unknown"
            delay_s = RESTART_DELAYS_S[min(service.failures, len(RESTART_DELAYS_S) - 1)]
            what = f"ended (status {status}); again in {delay_s} s"
            self._log(service.spec.name, what, "service.ended", "warning")
            service.record, service.child, service.kill_at_s = None, None, math.inf
            service.failures += 1
            service.next_start_s = now_s + delay_s
            self._end_clients_of(service)
        if now_s >= service.next_start_s and self._has_what_it_needs(service):
            self._start(service)

    def _end_clients_of(self, dead: Watched) -> None:
        """What a dead service's clients hold of it is worth nothing: they start anew, too."""
        for client in self._watched:
            if client.spec.needs == dead.spec.name and client.record is not None:
                self._log(client.spec.name, f"has to start anew: {dead.spec.name} died")
                client.kill_at_s = time.monotonic() + END_S
                client.record.signal(signal.SIGTERM)

    def _has_what_it_needs(self, service: Watched) -> bool:
        wanted = (service.spec.needs, service.spec.after)
        return all(self._is_ready(other) for other in self._watched if other.spec.name in wanted)

    def _is_ready(self, service: Watched) -> bool:
        told = not service.spec.tells_ready or self._ready_file(service.spec).exists()
        return service.alive() and told

    def _ready_file(self, spec: ServiceSpec) -> Path:
        return ready_file(self.runtime, spec.name)

    def _start(self, service: Watched) -> None:
        self._ready_file(service.spec).unlink(missing_ok=True)
        service.child = spawn(self.runtime, service.spec)
        service.started_s = time.monotonic()
        try:
            service.record = ProcessRecord.of(service.child.pid)
        except psutil.NoSuchProcess:
            service.record = ProcessRecord(service.child.pid, 0.0)
        service.record.save(self._record_path(service.spec))
        kind = "service.restarted" if service.failures else ""
        self._log(service.spec.name, f"started, pid {service.child.pid}", kind)

    def _end_services(self) -> None:
        first = [s for s in self._watched if s.spec.name != STOP_LAST]
        last = [s for s in self._watched if s.spec.name == STOP_LAST]
        for group in (first, last):
            for service in group:
                if service.record is not None:
                    service.record.signal(signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_GRACE_S
            while any(s.alive() for s in group) and time.monotonic() < deadline_s:
                time.sleep(0.05)
        keep = ProcessRecord.load(self.runtime.run_dir / "warden.json")
        sweep(self.runtime.instance, grace_s=1.0, keep=[keep.pid] if keep else [])
        self._log("supervisor", "stopped")

    def _log(self, name: str, what: str, kind: str = "", severity: str = "info") -> None:
        supervision_log.write(self.runtime.log_dir, name, what, kind, severity)


def stop_file(run_dir: Path) -> Path:
    """While this file exists nothing of the site is brought back."""
    return run_dir / "stop"


def spawn(runtime: SiteRuntime, spec: ServiceSpec) -> subprocess.Popen[bytes]:
    """Starts a service in a session of its own, its output appended to its log."""
    with (runtime.log_dir / f"{spec.name}.log").open("ab") as log:
        child = subprocess.Popen(
            command(spec, runtime.config.state_dir),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(runtime),
            cwd=runtime.run_dir,
            start_new_session=True,
        )
    keep_to_cores(runtime.config, spec.name, child.pid)
    return child


def spawn_detached(runtime: SiteRuntime, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts the supervisor or the warden so that it survives this process."""
    with (runtime.log_dir / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(runtime.config.state_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(runtime),
            cwd=runtime.run_dir,
            start_new_session=True,
        )


def main() -> int:
    """`python -m airan.site.supervisor STATE_DIR [--end-with-warden]`."""
    with contextlib.suppress(KeyboardInterrupt):
        runtime = site_runtime.load(Path(sys.argv[1]))
        keep_warden = "--end-with-warden" not in sys.argv
        return Supervisor(runtime, keep_warden, services_of(runtime.config)).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
