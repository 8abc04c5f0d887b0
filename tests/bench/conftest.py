"""The command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from airan.bench import sionna_peer
from airan.bench.sharing import day, process, run
from airan.cli import main
from orchestrator.drivers.mps import MpsDaemon


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def airan(monkeypatch, capsys) -> Callable[..., Ran]:
    """Runs `airan` with arguments."""

    def airan(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["airan", *map(str, arguments)])
        try:
            code = main.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return airan


@pytest.fixture
def without_sionna(monkeypatch) -> None:
    """As on a machine where the extra `oracle` was not installed."""
    monkeypatch.setattr(sionna_peer, "find_spec", lambda _: None)


SIMULATED = (sys.executable, str(Path(__file__).with_name("simulated_side.py")))
FAKE_MPS = Path(__file__).parents[1] / "orchestrator" / "fake_mps_daemon.py"


@pytest.fixture
def simulated_sides(monkeypatch) -> None:
    """The sharing bench takes its figures from simulated sides, and MPS from a fake daemon."""
    start = process.SideProcess.__init__

    def simulated(self, order, environment, folder) -> None:
        start(self, order, environment, folder, SIMULATED)

    monkeypatch.setattr(process.SideProcess, "__init__", simulated)
    monkeypatch.setattr(run, "MpsDaemon", lambda folder: MpsDaemon(folder, str(FAKE_MPS)))
    monkeypatch.setattr(run, "_SETTLE_S", 0.05)
    monkeypatch.setattr(day, "_SETTLE_S", 0.05)
    monkeypatch.setattr(day, "_ALONE_S", 0.3)
