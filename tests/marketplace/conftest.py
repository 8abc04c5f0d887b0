"""Fixtures of the marketplace's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airan.core.errors import UnavailableError
from marketplace.models import pull
from tests.marketplace.site import MODEL, FakeControl, running_agent


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model, fetched the way the product fetches it and kept between runs."""
    cache = Path(os.environ.get("AIRAN_TEST_CACHE", "~/.cache/airan")).expanduser()
    try:
        return pull(MODEL, cache)
    except UnavailableError as error:
        pytest.skip(f"the model cannot be fetched here: {error}")


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def agent_url(model_path: Path, control: FakeControl) -> AsyncIterator[str]:
    """A real llama.cpp under an engine agent that leases from `control`."""
    async with running_agent(model_path, control) as url:
        yield url
