"""The services of a site and how each is started: `python -m MODULE STATE_DIR`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from airan.core.config import SiteConfig
from airan.site.processes import INSTANCE_VARIABLE
from airan.site.runtime import SiteRuntime

SINGLE_THREADED = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class ServiceSpec:
    """One watched process of the site."""

    name: str
    module: str
    what: str
    needs: str = ""
    """A service without which it cannot run: it starts when that one is ready, and anew when
    that one has died."""
    after: str = ""
    """A service that has to be ready when it starts; what becomes of that one later is its own
    business."""
    tells_ready: bool = False
    """It says by `tell_ready` when it is; otherwise it counts as ready once it runs."""


CONTROL = ServiceSpec("control", "airan.site.control", "orchestrator and gRPC control plane")
GATEWAY = ServiceSpec("gateway", "airan.site.gateway", "OpenAI-compatible API on Ray Serve")
ENGINE = ServiceSpec("engine", "airan.site.engine", "an engine on a lease")
LAYER1 = ServiceSpec("l1", "airan.site.l1", "5G Layer 1 slot runtime")
DASHBOARD = ServiceSpec("dashboard", "airan.dashboard", "operators' web page")
MPS = ServiceSpec("mps", "airan.site.mps", "the GPU's MPS daemon", tells_ready=True)
SERVICES = (CONTROL, GATEWAY, ENGINE, LAYER1, DASHBOARD)


def services_of(config: SiteConfig) -> tuple[ServiceSpec, ...]:
    """The services of a site with this configuration."""
    layer1 = LAYER1
    engine = ENGINE
    if config.gpu.layer1 == "gpu":
        module, what = "airan.site.l1_gpu", "5G Layer 1 on the GPU"
        layer1 = replace(LAYER1, module=module, what=what, tells_ready=True)
        engine = replace(engine, after=LAYER1.name)
    if not runs_mps(config):
        return (CONTROL, GATEWAY, engine, layer1, DASHBOARD)
    engine, layer1 = replace(engine, needs=MPS.name), replace(layer1, after=MPS.name)
    return (CONTROL, MPS, GATEWAY, engine, layer1, DASHBOARD)


def runs_mps(config: SiteConfig) -> bool:
    """Whether both sides of this host's GPU are clients of an MPS daemon of the site's."""
    node = config.node
    return node.driver == "nvml" and not node.cluster and node.partition in ("mps", "green")


def board_file(runtime: SiteRuntime) -> Path:
    """Where Layer 1 says which gear the GPU is in, and the engine looks."""
    return runtime.run_dir / "sm-board"


def journal_file(runtime: SiteRuntime) -> Path:
    """Where Layer 1 keeps the records of its last slots, if it is to."""
    return runtime.run_dir / "slots"


def daemon_record(runtime: SiteRuntime) -> Path:
    """Which process the site's MPS daemon is."""
    return runtime.run_dir / "mps-daemon.json"


def ready_file(runtime: SiteRuntime, name: str) -> Path:
    """There while the service of that name is ready."""
    return runtime.run_dir / "services" / f"{name}.ready"


def tell_ready(runtime: SiteRuntime, name: str) -> None:
    """The service of that name, which calls it, is ready."""
    ready_file(runtime, name).touch()


def command(spec: ServiceSpec, state_dir: Path) -> list[str]:
    """The command line that starts the service."""
    return [sys.executable, "-m", spec.module, str(state_dir)]


def environment(runtime: SiteRuntime) -> dict[str, str]:
    """The environment of every process of the site: marked, one thread a library."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("AIRAN_")}
    return variables | SINGLE_THREADED | {INSTANCE_VARIABLE: runtime.instance}
