"""Fixtures of the orchestrator's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def start_process() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts real child processes that live until killed; none is left behind."""
    children: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sleep", "600"])
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
