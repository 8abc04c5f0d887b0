"""Fixtures of the orchestrator's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestrator import postgres


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


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """A PostgreSQL of these tests' own, started at the first use."""
    with postgres.cluster() as folder:
        yield folder


@pytest.fixture
def postgres_url(postgres_socket: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    with postgres.database(postgres_socket) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'control.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
