"""`airan up --gpu`: what it refuses with which remedy, and what it starts where all is there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airan.cli.main import app
from airan.core import config
from airan.core.config import SiteConfig
from airan.core.errors import AiranError, ConfigError
from airan.site import control, engine
from airan.site import runtime as site_runtime
from airan.site.gpu_host import Host, on_gpu, this_host
from airan.site.launch import describe
from airan.site.services import services_of
from orchestrator.alarm import AlarmGate
from orchestrator.drivers.base import GpuInfo
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.views import SlotReport
from tests.orchestrator.recorded_nvml import GPU_UUID, RecordedNvml
from tests.site.no_gpu import skip_where_there_is_a_gpu

FAKE_MPS = Path(__file__).resolve().parents[1] / "orchestrator" / "fake_mps_daemon.py"
H100 = GpuInfo(
    "GPU-1", "H100-SXM5-80GB", simulated=False, sm_count=132, memory_mib=81_559, mig_mode="disabled"
)
PORTS = {
    f"AIRAN_PORTS__{name}": "0" for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
}


def host(*gpus: GpuInfo, free_mib: int = 80_000, modules: bool = True, vllm: bool = True) -> Host:
    """A host that has everything, but for what is said."""
    found = gpus or (H100,)
    return Host(lambda: found, lambda _: free_mib, lambda _: modules, lambda _: vllm)


def site(**given: str) -> SiteConfig:
    defaults = {
        "AIRAN_STATE_DIR": "/tmp/airan-test",
        "AIRAN_GPU__MPS_BINARY": str(FAKE_MPS),
        "AIRAN_MODEL__NAME": "llama",
        "AIRAN_MODEL__VLLM__PYTHON": "/venv/bin/python",
        "AIRAN_MODEL__VLLM__PATH": "/models/llama",
    }
    return config.load(None, PORTS | defaults | given)


def refusal(configured: SiteConfig, on: Host) -> str:
    with pytest.raises(ConfigError) as caught:
        on_gpu(configured, on)
    assert caught.value.remedy
    return str(caught.value)


def no_driver() -> tuple[GpuInfo, ...]:
    raise ConfigError("this host has no NVIDIA driver")


@pytest.mark.parametrize(
    ("said", "on"),
    [
        ("has no NVIDIA driver", replace(host(), gpus=no_driver)),
        ("this host has 2", host(H100, replace(H100, uuid="GPU-2"))),
        ("fallen off the bus", host(replace(H100, lost=True))),
        ("MIG mode is on", host(replace(H100, mig_mode="enabled"))),
        ("no cost model fits", host(replace(H100, name="A100-SXM4-80GB"))),
        ("Layer 1 on the GPU needs cupy", host(modules=False)),
        ("has no vLLM", host(vllm=False)),
        ("has 65536 MiB", host(replace(H100, memory_mib=65_536))),
        ("has free 20000 MiB", host(free_mib=20_000)),
    ],
)
def test_what_is_missing_is_refused_with_a_remedy(said: str, on: Host) -> None:
    assert said in refusal(site(), on)


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("no-such-daemon is not on this host", {"AIRAN_GPU__MPS_BINARY": "no-such-daemon"}),
        ("too long for sockets", {"AIRAN_STATE_DIR": "/" + "x" * 100}),
        ("was not measured", {"AIRAN_RAN__SIZED_AS__N_PRB": "1"}),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(said: str, given: dict[str, str]) -> None:
    assert said in refusal(site(**given), host())


def test_an_engine_that_runs_on_a_cpu_is_refused(tmp_path: Path) -> None:
    environ = PORTS | {"AIRAN_STATE_DIR": "/tmp/a", "AIRAN_GPU__MPS_BINARY": str(FAKE_MPS)}
    assert "model.vllm is not set" in refusal(config.load(None, environ), host())


def test_this_machine_is_looked_at_for_real(tmp_path: Path) -> None:
    here = this_host()
    assert here.has_module("numpy")
    assert here.has_module("numpy.linalg")
    assert not here.has_module("no_such_module.below")
    assert not here.has_vllm(tmp_path / "python")
    # An environment of the tests' own has no vLLM.
    assert not here.has_vllm(Path(sys.executable))


async def test_free_memory_is_what_the_driver_says() -> None:
    node = NvmlNode(RecordedNvml(mig=False))
    assert await node.free_mib(GPU_UUID) == RecordedNvml.FREE_MIB
    with pytest.raises(AiranError, match="GPU-none"):
        await node.free_mib("GPU-none")
    node.close()


@pytest.mark.parametrize(("asked", "taken"), [("mig", "green"), ("green", "green"), ("mps", "mps")])
def test_a_host_that_has_all_runs_everything_on_the_gpu(asked: str, taken: str) -> None:
    started = on_gpu(site(AIRAN_NODE__PARTITION=asked), host())
    node = started.node
    assert (node.driver, node.gpu, node.partition) == ("nvml", "H100-SXM5-80GB", taken)
    assert (started.gpu.layer1, started.ran.slot_slowdown) == ("gpu", 1.0)
    specs = {one.name: one for one in services_of(started)}
    assert list(specs) == ["control", "mps", "gateway", "engine", "l1", "dashboard"]
    assert specs["l1"].module == "airan.site.l1_gpu"
    # Layer 1 goes on when the daemon dies; the engine starts when the slots run under the next.
    assert (specs["l1"].needs, specs["l1"].after) == ("", "mps")
    assert (specs["engine"].needs, specs["engine"].after) == ("mps", "l1")
    assert specs["l1"].tells_ready


def test_the_engine_is_started_in_gears_on_its_leases_partition() -> None:
    runtime = site_runtime.resolve(on_gpu(site(), host()))
    settings = engine.settings_of(runtime)
    vllm = settings.vllm
    assert vllm is not None
    assert vllm.args == (
        "--worker-cls=marketplace.engines.vllm_gears.GearWorker",
        "--scheduler-cls=marketplace.engines.vllm_gears.GearScheduler",
    )
    assert vllm.env["AIRAN_SM_BOARD"] == "/tmp/airan-test/run/sm-board"
    assert (Path(vllm.env["PYTHONPATH"]) / "marketplace" / "engines" / "vllm_gears.py").is_file()
    assert vllm.gpu is not None
    assert (vllm.gpu.total_sms, vllm.gpu.memory_mib) == (132, 55_296)
    assert str(vllm.gpu.folders and vllm.gpu.folders.pipe_dir) == "/tmp/airan-test/mps/pipe"


@pytest.mark.parametrize(("requests", "sms"), [(64, 2), (16, 8), (4, 16)])
def test_vllm_has_as_many_requests_as_the_lease_is_of_the_gpu(requests: int, sms: int) -> None:
    runtime = site_runtime.resolve(on_gpu(site(AIRAN_MODEL__MAX_CONCURRENT=str(requests)), host()))
    assert engine.settings_of(runtime).sm_per_stream == sms
    # On the CPU it is as ever.
    alone = site_runtime.resolve(site(AIRAN_MODEL__MAX_CONCURRENT=str(requests)))
    assert engine.settings_of(alone).sm_per_stream == 16


def test_without_a_gpu_nothing_of_it_is_asked_for() -> None:
    runtime = site_runtime.resolve(site())
    vllm = engine.settings_of(runtime).vllm
    assert vllm is not None
    assert (vllm.args, dict(vllm.env), vllm.gpu) == ((), {}, None)
    assert control.settings_of(runtime).alarm.lost_slots == 1


def test_single_lost_slots_are_the_fast_paths_own_business() -> None:
    runtime = site_runtime.resolve(on_gpu(site(), host()))
    settings = control.settings_of(runtime)
    assert settings.alarm.lost_slots == control.LOST_SLOTS_ON_GPU
    # A few reports in a row, each of 20 ms and one lost slot of the uplink's eight.
    gate = AlarmGate(settings.alarm)
    of_one = SlotReport(
        cell_id="cell-00",
        time_s=0.0,
        slots=40,
        slots_late=1,
        p99_us=2661.0,
        budget_us=1850.0,
        alarm=True,
        histogram_counts=(7, 1),
        histogram_edges_us=(1850.0,),
    )
    causes = [gate.take(of_one, 0.02 * number) for number in range(control.LOST_SLOTS_ON_GPU)]
    assert set(causes[:-1]) == {""}
    assert "20 near misses" in causes[-1]
    assert settings.partition == "green"
    text = "\n".join(describe(runtime))
    assert "18 cells' slots and vLLM" in text
    assert "SIMULATED" not in text


def test_the_command_refuses_on_a_host_without_a_gpu(tmp_path: Path) -> None:
    skip_where_there_is_a_gpu()
    ran = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "up", "--gpu"])
    assert ran.exit_code != 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "gears", ['["64+32", "32+64"]', '["64+32", "64+48"]', "[]", '["20+80"]', '["0+80"]', '["96"]']
)
def test_gears_that_make_no_sense_are_refused(gears: str) -> None:
    with pytest.raises(ConfigError, match=r"gpu\.gears"):
        site(AIRAN_GPU__GEARS=gears)
