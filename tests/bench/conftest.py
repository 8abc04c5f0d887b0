"""The command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from airan.bench import sionna_peer
from airan.cli import main


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
