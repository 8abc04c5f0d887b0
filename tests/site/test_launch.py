"""What is checked before a process of a site starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from airan.core import config
from airan.core.errors import ConfigError, UnavailableError
from airan.site import launch
from orchestrator.drivers.base import Driver
from orchestrator.drivers.nvml import NvmlNode
from tests.orchestrator.recorded_nvml import RecordedNvml


def site(**environ: str) -> config.SiteConfig:
    return config.load(None, {"AIRAN_NODE__DRIVER": "nvml"} | environ)


def test_a_host_without_a_driver_is_told_before_anything_starts() -> None:
    try:
        NvmlNode().close()
    except UnavailableError:
        with pytest.raises(ConfigError, match=r"no NVIDIA driver.*node\.driver to simulated"):
            launch.check_gpu(site())
    else:
        pytest.skip("this host has an NVIDIA driver")


def test_real_gpus_must_be_those_that_the_configuration_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def recorded() -> AsyncIterator[Driver]:
        node = NvmlNode(RecordedNvml())
        yield node
        node.close()

    monkeypatch.setattr(launch, "nvml_node", recorded)
    asyncio.run(launch.check_real_gpus(site(AIRAN_NODE__GPU="H100-SXM5-80GB")))
    with pytest.raises(ConfigError, match=r"say GH200-96GB, but this host has H100-SXM5-80GB"):
        asyncio.run(launch.check_real_gpus(site(AIRAN_NODE__GPU="GH200-96GB")))
