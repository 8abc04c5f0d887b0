"""vLLM follows its lease to a partition, over a scripted server (no vLLM needed)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from marketplace.adapters.adapter import TENSORS, AdapterFile
from marketplace.adapters.folder import AdapterFolder
from marketplace.engines.adapted import AdapterSet
from marketplace.engines.hosts import GpuAccess
from marketplace.engines.vllm_host import VllmHost, VllmSettings
from orchestrator.drivers.environment import folders_in
from tests.marketplace.lora_files import safetensors
from tests.marketplace.site import FakeControl, FakeLease, eventually, running_agent

ACCESS = GpuAccess(132, folders_in(Path("/site")), 60_000)
GREEN = FakeLease("a", "e", 68, partition_id="PART-1", gpu_uuid="GPU-1", profile="green.68")


class Scripted:
    """A server's settings, and what was told to those that ran."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        python = folder / "python"
        script = Path(__file__).with_name("scripted_vllm.py")
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
        python.chmod(0o755)
        self.log = folder / "told.jsonl"
        script_of = changes.pop("script", "")
        self.settings = VllmSettings(
            folder,
            "m",
            python,
            folder / "vllm.log",
            env={
                "SCRIPT_LOG": str(self.log),
                "SCRIPT": script_of,
                "SCRIPT_GO": str(folder / "go"),
            },
            start_timeout_s=60.0,
            gpu=ACCESS,
            **changes,
        )

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def starts(self) -> list[dict[str, Any]]:
        return [one for one in self.told() if "started" in one]

    def paths(self) -> list[str]:
        return [one["path"] for one in self.told() if "path" in one]


@asynccontextmanager
async def hosted(settings: VllmSettings) -> AsyncIterator[VllmHost]:
    host = VllmHost(settings)
    try:
        yield host
    finally:
        await host.stop()


async def engine_state(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=30) as http:
        state: dict[str, Any] = (await http.get(f"{url}/state")).json()
        return state


async def test_the_server_starts_with_its_leases_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "5")
    scripted = Scripted(tmp_path)
    async with hosted(scripted.settings) as host:
        assert host.needs_lease
        await host.occupy(GREEN)
        first = host.url
        await host.occupy(replace(GREEN, id="b", sm_count=36, profile="green.36"))
        assert host.url == first
    (start,) = scripted.starts()
    cuda = {key: one for key, one in start["started"].items() if key.startswith("CUDA_")}
    assert cuda == dict(ACCESS.variables(GREEN))
    assert "--enable-sleep-mode" not in start["options"]


async def test_another_partition_means_another_server(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path)
    mig = replace(GREEN, partition_id="MIG-7", profile="3g.40gb")
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        assert not host.fits(mig)
        await host.occupy(mig)
        assert host.fits(mig)
    seen = [one["started"]["CUDA_VISIBLE_DEVICES"] for one in scripted.starts()]
    assert seen == ["GPU-1", "MIG-7"]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in scripted.starts()[1]["started"]


@pytest.mark.parametrize(
    ("profile", "stays"), [("green.68", True), ("mps.68", True), ("3g.40gb", False)]
)
async def test_a_model_stays_loaded_where_its_memory_is_the_engines_for_good(
    tmp_path: Path, profile: str, stays: bool
) -> None:
    scripted = Scripted(tmp_path)
    async with hosted(scripted.settings) as host:
        await host.occupy(replace(GREEN, profile=profile))
        await host.vacate(time.time() + 30)
        assert bool(host.url) == stays


@pytest.mark.parametrize(
    ("level", "paths"),
    [
        (1, ["/sleep?level=1", "/wake_up"]),
        (
            2,
            [
                "/sleep?level=2",
                "/wake_up?tags=weights",
                "/collective_rpc",
                "/wake_up?tags=kv_cache",
                "/reset_prefix_cache",
            ],
        ),
    ],
)
async def test_between_leases_the_models_memory_is_given_back(
    tmp_path: Path, level: int, paths: list[str]
) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep", sleep_level=level)
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        await host.vacate(time.time() + 30)
        assert host.url
        await host.occupy(replace(GREEN, id="b"))
        await host.occupy(replace(GREEN, id="b"))
    (start,) = scripted.starts()
    assert start["started"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--enable-sleep-mode" in start["options"]
    assert scripted.paths() == paths


@pytest.mark.parametrize("script", ["no-sleep", "slow-sleep"])
async def test_a_server_that_does_not_sleep_in_time_is_stopped(tmp_path: Path, script: str) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep", script=script)
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        deadline_s = time.time() + (0.3 if script == "slow-sleep" else 30)
        await host.vacate(deadline_s)
        assert host.url == ""
        assert time.time() < deadline_s + 20
        await host.occupy(GREEN)
        assert host.url
    assert len(scripted.starts()) == 2


async def test_a_lease_that_is_over_at_once_leaves_no_time_to_sleep(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep")
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        await host.vacate(0.0)
        assert host.url == ""
    assert scripted.paths() == []


async def test_a_server_that_does_not_wake_up_is_started_anew(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep", script="no-wake")
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        await host.vacate(time.time() + 30)
        await host.occupy(GREEN)
        assert host.url
    assert len(scripted.starts()) == 2


async def test_where_there_is_no_sleep_mode_the_server_starts_without_it_and_is_stopped(
    tmp_path: Path,
) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep", script="no-sleep-mode")
    async with hosted(scripted.settings) as host:
        await host.occupy(GREEN)
        (start,) = scripted.starts()
        assert "--enable-sleep-mode" not in start["options"]
        await host.vacate(time.time() + 30)
        assert host.url == ""
    assert scripted.paths() == []


async def test_an_engine_loads_its_model_with_a_lease_and_gives_it_back_when_revoked(
    tmp_path: Path, control: FakeControl
) -> None:
    control.free = False
    scripted = Scripted(tmp_path, between_leases="stop")
    async with running_agent(tmp_path, control, model="m", vllm=scripted.settings) as agent:
        state = await engine_state(agent)
        assert (state["phase"], state["url"]) == ("no_lease", "")
        assert not scripted.log.exists()
        control.offer()

        async def ready() -> bool:
            return (await engine_state(agent))["phase"] == "ready"

        await eventually(ready)
        assert scripted.starts()[0]["started"]["CUDA_VISIBLE_DEVICES"] == "MIG-1"
        await control.revoke()
        assert control.released_late_s[-1] < 0
        assert (await engine_state(agent))["url"] == ""


async def test_an_engine_whose_share_was_fixed_at_its_start_takes_a_lease_of_another_size_anew(
    tmp_path: Path, control: FakeControl
) -> None:
    control.profile = "mps.66"
    control.sm_count = 66
    scripted = Scripted(tmp_path)
    async with running_agent(tmp_path, control, model="m", vllm=scripted.settings) as agent:

        async def has(n_starts: int) -> bool:
            state = await engine_state(agent)
            return state["phase"] == "ready" and len(scripted.starts()) == n_starts

        await eventually(lambda: has(1))
        control.profile, control.sm_count = "mps.33", 33
        control.resize(33)
        await eventually(lambda: bool(not control.held))
        control.offer()
        await eventually(lambda: has(2))
    key = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
    assert [one["started"][key] for one in scripted.starts()] == ["50", "25"]


async def test_a_lease_is_confirmed_while_the_model_is_loaded_however_long_that_takes(
    tmp_path: Path, control: FakeControl
) -> None:
    scripted = Scripted(tmp_path, script="slow-start")
    options: dict[str, Any] = {"confirm_timeout_s": 3.0, "report_interval_s": 0.1}
    async with running_agent(
        tmp_path, control, model="m", vllm=scripted.settings, **options
    ) as agent:
        await eventually(lambda: sum(one[1] for one in control.reports) > 4.0)
        assert {lease_id for lease_id, _, _ in control.reports} == {"lease-1"}
        (tmp_path / "go").touch()

        async def ready() -> bool:
            return (await engine_state(agent))["phase"] == "ready"

        await eventually(ready)
        assert list(control.held) == ["lease-1"]
    assert len(scripted.starts()) == 1


async def revoked_while_it_loads(folder: Path, control: FakeControl, agent: Any) -> None:
    """The lease goes back at once; then the server may start, and a lease is on offer again."""
    await control.revoke(notice_s=10.0)
    assert control.released_late_s[-1] < -5
    (folder / "go").touch()
    control.offer()

    async def ready() -> bool:
        return (await engine_state(agent))["phase"] == "ready"

    await eventually(ready)


async def test_a_lease_that_is_revoked_while_the_model_is_loaded_goes_back_at_once(
    tmp_path: Path, control: FakeControl
) -> None:
    scripted = Scripted(tmp_path, script="slow-start")
    async with running_agent(tmp_path, control, model="m", vllm=scripted.settings) as agent:
        await eventually(lambda: bool(control.held))
        await revoked_while_it_loads(tmp_path, control, agent)
    assert len(scripted.starts()) == 1


def server_pids(folder: Path) -> set[int]:
    """Of the processes that were started with the model's folder."""
    found = set()
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"--model={folder}" in one.cmdline():
                found.add(one.pid)
    return found


async def test_a_model_whose_memory_is_its_own_goes_on_loading_without_the_lease(
    tmp_path: Path, control: FakeControl
) -> None:
    scripted = Scripted(tmp_path, script="slow-start", between_leases="stay")
    control.profile = "green.68"
    async with running_agent(tmp_path, control, model="m", vllm=scripted.settings) as agent:
        await eventually(lambda: bool(control.held))
        # Who watches over the server, and the server.
        await eventually(lambda: len(server_pids(tmp_path)) == 2)
        servers = server_pids(tmp_path)
        await revoked_while_it_loads(tmp_path, control, agent)
        assert server_pids(tmp_path) == servers
        assert list(control.held) == ["lease-2"]
    assert len(scripted.starts()) == 1


async def test_an_engine_with_adapters_gets_them_with_every_server_and_does_not_sleep(
    tmp_path: Path,
) -> None:
    scripted = Scripted(tmp_path, between_leases="sleep", max_adapters=2, max_adapter_rank=8)
    module = "model.layers.0.self_attn.o_proj"
    name = f"base_model.model.{module}"
    pair = {f"{name}.lora_A.weight": np.ones((4, 8)), f"{name}.lora_B.weight": np.ones((8, 4))}
    (tmp_path / "model.safetensors").write_bytes(safetensors({f"{module}.weight": np.ones((8, 8))}))
    path = tmp_path / "lora-1"
    path.mkdir()
    (path / TENSORS).write_bytes(data := safetensors(pair))
    digest = hashlib.sha256(data).hexdigest()
    folder = AdapterFolder(tmp_path / "adapters")
    folder.publish("m", [AdapterFile("lora-1", path, "peft", digest, 4)])
    async with hosted(scripted.settings) as host:
        adapters = AdapterSet(host, folder, "m", "e", tmp_path)
        for lease in (GREEN, replace(GREEN, id="b")):
            await adapters.occupy(lease)
            assert (adapters.loaded, adapters.refused) == (("lora-1",), ())
            await host.vacate(time.time() + 30.0)
    assert scripted.paths() == ["/v1/load_lora_adapter"] * 2
    for start in scripted.starts():
        assert {"--enable-lora", "--max-loras=2", "--max-lora-rank=8"} <= set(start["options"])
        assert "--enable-sleep-mode" not in start["options"]
        assert start["started"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
