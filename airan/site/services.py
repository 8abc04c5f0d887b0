"""The services of a site and how each is started: `python -m MODULE STATE_DIR`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

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


SERVICES = (
    ServiceSpec("control", "airan.site.control", "orchestrator and gRPC control plane"),
    ServiceSpec("gateway", "airan.site.gateway", "OpenAI-compatible API on Ray Serve"),
    ServiceSpec("engine", "airan.site.engine", "llama.cpp on a lease"),
    ServiceSpec("l1", "airan.site.l1", "5G Layer 1 slot runtime"),
    ServiceSpec("dashboard", "airan.dashboard", "operators' web page"),
)


def command(spec: ServiceSpec, state_dir: Path) -> list[str]:
    """The command line that starts the service."""
    return [sys.executable, "-m", spec.module, str(state_dir)]


def environment(runtime: SiteRuntime) -> dict[str, str]:
    """The environment of every process of the site: marked, one thread a library."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("AIRAN_")}
    return variables | SINGLE_THREADED | {INSTANCE_VARIABLE: runtime.instance}
