"""Which process is killed, and whether another has taken its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from airan.core.errors import UnavailableError
from airan.site.processes import ProcessRecord
from airan.site.runtime import SiteRuntime
from airan.site.services import daemon_record, ready_file, runs_mps
from airan.site.slot_journal import JournalReader

_COMPUTES = ("EngineCore", "vllm")
"""In the name of the process in which vLLM computes: of its own one, or, where it has none, of its
server."""


@dataclass(frozen=True)
class Victim:
    """A process of the site that is to die.

    Attributes:
        kind: of NAMES.
        name: for the report.
        pid: of the one that does it now; 0: none does.
        stops_engine: whether the engine's answers stop with it.
        is_back: besides another process in its place, what else must be so.
    """

    kind: str
    name: str
    pid: Callable[[], int]
    stops_engine: bool
    is_back: Callable[[], bool] = lambda: True


NAMES = ("layer1", "engine", "mps")
"""What can be killed: Layer 1's process or, on a GPU, its worker; what computes answers; the MPS
daemon."""


def victims(runtime: SiteRuntime, journal: JournalReader) -> list[Victim]:
    """In the order in which they are to die: what costs the least time comes first."""
    on_gpu = runtime.config.gpu.layer1 == "gpu"
    layer1 = Victim("layer1", "layer1-process", lambda: _service(runtime, "l1"), False)
    if on_gpu:
        layer1 = Victim("layer1", "layer1-worker", lambda: journal.worker_pid, False)
    engine = Victim("engine", "engine", lambda: _service(runtime, "engine"), True)
    if runtime.config.model.vllm is not None:
        engine = Victim("engine", "vllm-engine", _EngineCore(runtime), True)
    found = [layer1, engine]
    if runs_mps(runtime.config):
        ready = ready_file(runtime, "l1")
        pid = _daemon(runtime)
        found.append(Victim("mps", "mps-daemon", pid, True, is_back=ready.exists))
    return found


def kill(victim: Victim) -> int:
    """SIGKILL; its pid.

    Raises:
        UnavailableError: there is none.
    """
    pid = victim.pid()
    try:
        if pid:
            psutil.Process(pid).kill()
            return pid
    except psutil.NoSuchProcess:
        pass
    raise UnavailableError(f"{victim.name}: there is no such process to kill")


def _service(runtime: SiteRuntime, name: str) -> int:
    record = ProcessRecord.load(runtime.run_dir / "services" / f"{name}.json")
    return record.pid if record is not None and record.alive() else 0


def _daemon(runtime: SiteRuntime) -> Callable[[], int]:
    def pid() -> int:
        record = ProcessRecord.load(daemon_record(runtime))
        return record.pid if record is not None and record.alive() else 0

    return pid


class _EngineCore:
    """The process in which vLLM computes; 0: there is none.

    Once one has been found, only one like it counts: a server without the process of its engine,
    which is about to end or to start one, computes nothing.
    """

    def __init__(self, runtime: SiteRuntime) -> None:
        self._runtime = runtime
        self._patterns: tuple[str, ...] = _COMPUTES

    def __call__(self) -> int:
        named = self._below_the_engine()
        for pattern in self._patterns:
            for pid, name in named:
                if pattern in name and "lifeline" not in name:
                    self._patterns = (pattern,)
                    return pid
        return 0

    def _below_the_engine(self) -> list[tuple[int, str]]:
        service = _service(self._runtime, "engine")
        named = []
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(service).children(recursive=True) if service else []:
                # One that has ended is there until it is waited for, and has no command line.
                with contextlib.suppress(psutil.Error):
                    named.append((one.pid, f"{one.name()} {' '.join(one.cmdline())}"))
        return named
