"""Starting a site in the foreground, and reading from one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from airan.core.config import SiteConfig
from airan.core.errors import (
    AiranError,
    ConfigError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from airan.site import runtime as site_runtime
from airan.site.cells import load_profile, pusch_config
from airan.site.externals import check_external_models
from airan.site.peers import check_peers
from airan.site.processes import sweep
from airan.site.runtime import SiteRuntime
from airan.site.warden import AlreadyRunningError, Warden, hold, running
from marketplace import models
from marketplace.store.hold import check_free
from orchestrator.mig import MigGeometry
from orchestrator.service import nvml_node

READY_S = 120.0
Say = Callable[[str], None]


def prepare(config: SiteConfig, say: Say) -> SiteRuntime:
    """Checks everything that can be checked before a process starts, and fixes the runtime.

    The model is fetched if it is not there yet.

    Raises:
        AlreadyRunningError: a site runs in the state folder.
        PortInUseError, ConfigError, ModelFileError: as their messages say.
    """
    refuse_if_running(config.state_dir)
    check_gpu(config)
    check_ran(config)
    check_external_models(config)
    check_peers(config)
    ensure_model(config, say)
    end_leftovers(config.state_dir)
    check_database(config)
    runtime = site_runtime.resolve(config)
    runtime.save()
    (runtime.run_dir / "stop").unlink(missing_ok=True)
    return runtime


def end_leftovers(state_dir: Path) -> None:
    """Ends what an earlier run in `state_dir` may have left, after its watchers were killed."""
    with contextlib.suppress(NotFoundError):
        sweep(site_runtime.load(state_dir).instance)


def check_database(config: SiteConfig) -> None:
    """Raises UnavailableError when another site's gateway works on the marketplace's database,
    or it cannot be reached."""
    if config.market.database_url:
        check_free(config.market.database_url)


def check_gpu(config: SiteConfig) -> None:
    """Raises ConfigError when the configured GPU is not known, or real ones are not there."""
    if config.node.driver == "nvml" and not config.node.cluster:
        asyncio.run(check_real_gpus(config))
        return
    try:
        MigGeometry.load(config.node.gpu)
    except AiranError as error:
        raise ConfigError(f"node.gpu: {error.message}", remedy=error.remedy) from error


async def check_real_gpus(config: SiteConfig) -> None:
    """Raises ConfigError unless NVML finds the GPUs that `node.gpu` and `node.n_gpus` name: the
    cells' needs are reckoned for those."""
    async with nvml_node() as node:
        found = [gpu.name for gpu in await node.gpus()]
    wanted = [config.node.gpu] * config.node.n_gpus
    if found != wanted:
        raise ConfigError(
            f"node.gpu and node.n_gpus say {', '.join(wanted)}, but this host has"
            f" {', '.join(found)}",
            remedy="name the GPUs that are there",
        )


def check_ran(config: SiteConfig) -> None:
    """Raises ConfigError when no cell can be built from the configuration."""
    try:
        pusch_config(config.ran)
        load_profile(config.ran)
    except InvalidInputError as error:
        raise ConfigError(
            f"ran: {error.message}", remedy=error.remedy or "correct the section ran"
        ) from error


def refuse_if_running(state_dir: Path) -> None:
    """Raises AlreadyRunningError when a site runs in `state_dir`."""
    if running(state_dir):
        raise AlreadyRunningError(
            f"a site already runs in {state_dir}",
            remedy="see it with `airan status`, or stop it with `airan down`",
        )


def port_or_free(port: int, default: int) -> int:
    """`port`, or 0 (a free one) where it is only the default and something else has it."""
    if port != default:
        return port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((site_runtime.HOST, port))
        except OSError:
            return 0
    return port


def ensure_model(config: SiteConfig, say: Say) -> None:
    """Fetches the configured model once; afterwards only its checksum is verified.

    Raises:
        ConfigError: vLLM is to serve it, and its Python or the model's folder is not there.
    """
    if (vllm := config.model.vllm) is not None:
        for key, path, what in (
            ("python", vllm.python, "the Python of vLLM's environment"),
            ("path", vllm.path / "config.json", "a model folder in Hugging Face's form"),
        ):
            if not path.expanduser().is_file():
                raise ConfigError(f"model.vllm.{key}: {path} is not there", remedy=f"name {what}")
        return
    path = models.cached_path(config.model.name, config.cache_dir)
    if not path.exists():
        say(f"fetching the model {config.model.name} once, into {path.parent}")
    models.pull(config.model.name, config.cache_dir)


def run_site(config: SiteConfig, say: Say) -> None:
    """`airan up`: starts the site and holds it up until a signal or `airan down`."""
    runtime = prepare(config, say)
    warden = Warden(runtime)
    warden.start()
    say(f"starting site {config.name} in {config.state_dir} (logs in {runtime.log_dir})")
    begun_s = time.monotonic()
    told = False

    def tell_once_ready() -> bool:
        nonlocal told
        if not told and ready(runtime):
            told = True
            say(f"ready after {time.monotonic() - begun_s:.0f} s")
            for line in describe(runtime):
                say(line)
        return False

    hold(runtime, warden, until=tell_once_ready)
    say("stopped")


def describe(runtime: SiteRuntime) -> list[str]:
    """Where to find the site, in a few lines."""
    ran, node, gpu = runtime.config.ran, runtime.config.node, runtime.config.gpu
    where = f"by Ray at {node.cluster}" if node.cluster else "on this machine's CPU"
    gpus = f"SIMULATED {node.gpu} {where};"
    if node.driver == "nvml":
        gpus = f"{node.gpu}; its cell is decoded on this machine's CPU;"
    pace = f"slot clock slowed {ran.slot_slowdown:g}x"
    if gpu.layer1 == "gpu":
        gpus = f"{node.gpu}, shared by {node.partition}: {ran.n_cells} cells' slots and vLLM;"
        pace = "slots at the radio's pace, the radio simulated"
    return [
        f"{gpus} {pace}",
        f"  dashboard      {runtime.dashboard_url}",
        f"  inference API  {runtime.gateway_url}/v1  (make a key: airan key create TENANT)",
        f"  control plane  {runtime.control_address} (gRPC airan.control.v1)",
        "  stop with Ctrl-C or `airan down`",
    ]


def ready(runtime: SiteRuntime, *, serving: bool = False) -> bool:
    """True when every service answers, and of several gateways each; with `serving` also an
    engine must hold a lease."""
    try:
        gateway = httpx.get(f"{runtime.gateway_url}/readyz", timeout=1.0, trust_env=False)
        page = httpx.get(f"{runtime.dashboard_url}/healthz", timeout=1.0, trust_env=False)
        control = httpx.get(f"{runtime.metrics_url}/metrics", timeout=1.0, trust_env=False)
    except httpx.HTTPError:
        return False
    if any(answer.status_code != httpx.codes.OK for answer in (gateway, page, control)):
        return False
    said = gateway.json()
    if said.get("gateways", 1) < runtime.config.market.gateways:
        return False
    return not serving or said["status"] == "ready"


def await_ready(runtime: SiteRuntime, limit_s: float = READY_S) -> float:
    """Waits until the site serves requests; returns the seconds it took.

    Raises:
        UnavailableError: it is not ready within `limit_s`; names the logs.
    """
    begun_s = time.monotonic()
    while not ready(runtime, serving=True):
        if time.monotonic() - begun_s > limit_s:
            raise UnavailableError(
                f"the site is not ready after {limit_s:.0f} s",
                remedy=f"look into the logs in {runtime.log_dir}",
            )
        time.sleep(0.2)
    return time.monotonic() - begun_s
