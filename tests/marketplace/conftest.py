"""Fixtures of the marketplace's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airan.core.errors import UnavailableError
from marketplace.engines.vllm_host import VllmSettings
from marketplace.models import pull
from tests.marketplace.site import MODEL, FakeControl, running_agent
from tests.marketplace.vllm_server import served, settings_for
from tests.orchestrator import postgres


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model, fetched the way the product fetches it and kept between runs."""
    cache = Path(os.environ.get("AIRAN_TEST_CACHE", "~/.cache/airan")).expanduser()
    try:
        return pull(MODEL, cache)
    except UnavailableError as error:
        pytest.skip(f"the model cannot be fetched here: {error}")


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> VllmSettings:
    """How to serve a small model with vLLM, where `make setup-vllm` has installed it."""
    return settings_for(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="session")
def vllm_url(vllm: VllmSettings) -> Iterator[str]:
    """A vLLM server, started once."""
    with served(vllm) as url:
        yield url


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def agent_url(model_path: Path, control: FakeControl) -> AsyncIterator[str]:
    """A real llama.cpp under an engine agent that leases from `control`."""
    async with running_agent(model_path, control) as url:
        yield url


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
        return f"sqlite:///{tmp_path / 'market.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
