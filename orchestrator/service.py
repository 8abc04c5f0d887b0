"""The control process: gRPC server, planner and reconciliation, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import prometheus_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from airan.core.clock import Clock, SystemClock
from airan.core.errors import (
    ConfigError,
    NotLeaderError,
    PortInUseError,
    StaleGenerationError,
    UnavailableError,
)
from orchestrator.alarm import AlarmSettings
from orchestrator.api.guard import Guard
from orchestrator.api.security import TlsFiles, require_loopback, server_credentials
from orchestrator.api.server import add_servicers
from orchestrator.control import ControlOptions, ControlPlane
from orchestrator.demand import DemandSettings
from orchestrator.drivers.base import Driver
from orchestrator.drivers.fenced import FencedDriver
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.pool import PoolDriver
from orchestrator.drivers.shared_node import SharedNode
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.follower import follower_server
from orchestrator.leases import LeaseSettings
from orchestrator.partition_kinds import kind_of
from orchestrator.policy import Policy
from orchestrator.store import Store
from orchestrator.store.leadership import HOPELESS_S, Leadership, leadership_of, while_leading
from orchestrator.tracing import export_if_wanted

FOLLOW_AFTER_S = 1.0
"""A lead that is not gained within this time is another's for now."""


@dataclass(frozen=True)
class RemoteSettings:
    """A second port, for callers with a certificate: mutual TLS, see `api.security`."""

    host: str
    port: int
    tls: TlsFiles


@dataclass(frozen=True)
class ControlSettings:
    """What the control process needs to know."""

    site: str
    state_dir: Path
    site_started_s: float
    """Unix time of the site's start; totals are kept while it stays the same."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one; `serve` reports it."""
    gpu: str = "GH200-96GB"
    n_gpus: int = 1
    partition: str = "mig"
    """How GPUs are divided: `mig`, `mps`, `green` or `whole`; real ones whose MIG mode is on, by
    MIG."""
    mig_create_ms: float = 250.0
    """Wall time, assumed."""
    mig_destroy_ms: float = 150.0
    """Wall time, assumed."""
    policy: Policy = field(default_factory=Policy)
    """In force until one is set through the API, which holds until the site is started anew."""
    interval_ms: int = 500
    metrics_port: int | None = None
    """HTTP port for Prometheus; None: no such server, 0: a free one."""
    database_url: str = ""
    """`postgresql://...` for several orchestrators; empty: SQLite in `state_dir`."""
    remote: RemoteSettings | None = None
    """Where others than this machine are served; None: nowhere."""
    leases: LeaseSettings = field(default_factory=LeaseSettings)
    demand: DemandSettings = field(default_factory=DemandSettings)
    alarm: AlarmSettings = field(default_factory=AlarmSettings)

    @property
    def delays_s(self) -> tuple[float, float]:
        """Seconds to make (or resize) and to remove one partition."""
        if self.partition != "mig":
            return kind_of(self.partition).change_ms / 1000.0, 0.0
        return self.mig_create_ms / 1000.0, self.mig_destroy_ms / 1000.0


NodeOpener = Callable[[ControlSettings, Clock, int], AbstractAsyncContextManager[Driver]]
"""Opens the driver of the node, or of all of them, for the orchestrator of an epoch (0: the only
one there is); leaving the context closes the driver, and the node stays as it is."""


@contextlib.asynccontextmanager
async def open_simulated(settings: ControlSettings, clock: Clock, _: int) -> AsyncIterator[Driver]:
    """One simulated node within this process; see `NodeOpener`."""
    yield SimulatedNode(
        settings.state_dir / "simulated-node.json",
        settings.gpu,
        settings.n_gpus,
        kind=settings.partition,
        delays_s=settings.delays_s,
        clock=clock,
    )


def open_nvml(settings: ControlSettings, _: Clock, __: int) -> AbstractAsyncContextManager[Driver]:
    """This host's NVIDIA GPUs; see `NodeOpener` and `nvml_node`."""
    return nvml_node(settings.partition, settings.state_dir / "gpu-parts.json")


@contextlib.asynccontextmanager
async def nvml_node(partition: str = "whole", books: Path | None = None) -> AsyncIterator[Driver]:
    """This host's NVIDIA GPUs. With `books` those whose MIG mode is off are divided by `partition`
    (`mps` or `green`; anything else: not at all).

    Raises:
        ConfigError: there is no driver, or no GPU.
    """
    is_shared = books is not None and partition in ("mps", "green")
    async with this_hosts_gpus(partition if is_shared else "whole") as node:
        yield SharedNode(node, books) if is_shared and books is not None else node


@contextlib.asynccontextmanager
async def this_hosts_gpus(share_kind: str = "whole") -> AsyncIterator[NvmlNode]:
    """What NVML finds; raises ConfigError as `nvml_node` does."""
    try:
        node = NvmlNode(share_kind=share_kind)
    except UnavailableError as error:
        raise ConfigError(
            f"node.driver is nvml, but this host has no NVIDIA driver: {error.message}",
            remedy="install NVIDIA's driver, or set node.driver to simulated",
        ) from error
    try:
        if not await node.gpus():
            raise ConfigError(
                "node.driver is nvml, but this host's driver finds no GPU",
                remedy="see nvidia-smi, or set node.driver to simulated",
            )
        yield node
    finally:
        node.close()


async def serve(
    settings: ControlSettings,
    stop: asyncio.Event,
    on_ready: Callable[[int], None] | None = None,
    open_node: NodeOpener = open_simulated,
) -> None:
    """Runs the control plane until `stop` is set; `on_ready` gets the bound gRPC port.

    State lives in `state_dir`: `control.sqlite` unless another database is given, and
    `simulated-node.json`, which is the simulated hardware's memory. While another orchestrator
    leads on the same database, every call is refused.

    Raises:
        ConfigError: the host is not a loopback address, or the policy or GPU is unknown.
        PortInUseError: the port is taken.
        NotLeaderError: the lead was lost; start anew to follow, and to lead again.
    """
    require_loopback(settings.host)
    leadership = leadership_of(database_url(settings))
    traces = export_if_wanted(settings.site)
    try:
        Store(database_url(settings)).close()  # migrated before anyone leads
        epoch, port = await _lead(settings, leadership, stop)
        if stop.is_set():
            return
        led = replace(settings, port=port)
        with _telling_that_it_is_over(leadership):
            lead = lead_of(epoch, leadership)
            async with running(led, lead=lead, open_node=open_node) as (_, port):
                if on_ready is not None:
                    on_ready(port)
                if why := await while_leading(leadership, stop):
                    raise NotLeaderError(f"the lead was lost: {why}")
    finally:
        await leadership.close()
        if traces is not None:
            traces.shutdown()


@contextlib.contextmanager
def _telling_that_it_is_over(leadership: Leadership) -> Iterator[None]:
    """Whatever fails because the lead is over fails with NotLeaderError: starting anew helps."""
    try:
        yield
    except NotLeaderError:
        raise
    except Exception as error:
        leadership.require()
        every = error if isinstance(error, ExceptionGroup) else ExceptionGroup("", [error])
        if every.subgroup(StaleGenerationError):
            raise NotLeaderError("the lead was lost: another orchestrator leads") from error
        raise


@dataclass(frozen=True)
class Lead:
    """A leadership that has been gained."""

    epoch: int
    require: Callable[[], None]
    """Asked before a GPU is changed."""
    hope: Callable[[], None]
    """Asked before the database is; more patient."""


def lead_of(epoch: int, leadership: Leadership) -> Lead:
    """What the control plane needs of a leadership that has been gained."""
    return Lead(epoch, leadership.require, functools.partial(leadership.require, HOPELESS_S))


def database_url(settings: ControlSettings) -> str:
    """Where the store is."""
    return settings.database_url or f"sqlite:///{settings.state_dir / 'control.sqlite'}"


async def _lead(
    settings: ControlSettings, leadership: Leadership, stop: asyncio.Event
) -> tuple[int, int]:
    """Follows until this orchestrator leads, or is told to stop; the epoch and the port."""
    leading = asyncio.ensure_future(leadership.lead())
    stopped = asyncio.ensure_future(stop.wait())
    server, port = None, settings.port
    try:
        done, _ = await asyncio.wait({leading, stopped}, timeout=FOLLOW_AFTER_S)
        if not done:
            server = await follower_server()
            port = _bind(server, settings)
            await server.start()
            await asyncio.wait({leading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return (leading.result() if leading.done() else 0), port
    finally:
        for task in (leading, stopped):
            task.cancel()
        await asyncio.gather(leading, stopped, return_exceptions=True)
        if server is not None:
            await server.stop(grace=None)


@contextlib.asynccontextmanager
async def running(
    settings: ControlSettings,
    clock: Clock | None = None,
    lead: Lead | None = None,
    open_node: NodeOpener = open_simulated,
) -> AsyncIterator[tuple[ControlPlane, int]]:
    """The control plane and its bound port, running while the context is open.

    Without a `lead` nobody else may use the database.
    """
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        store = Store(database_url(settings))
        stack.callback(store.close)
        if lead is not None:
            store.follow(lead.epoch, lead.hope)
        opened = open_node(settings, clock, lead.epoch if lead is not None else 0)
        node = await stack.enter_async_context(opened)
        control = build(settings, store, clock, node, lead)
        guard = Guard(store, control.clock)
        server = grpc.aio.server(interceptors=(guard,), options=(("grpc.so_reuseport", 0),))
        names = add_servicers(control, server)
        await _add_health(server, names)
        port = _bind(server, settings)
        if settings.remote is not None:
            _bind_remote(server, settings.remote)
        stack.callback(_metrics_server(control, settings))
        stack.push_async_callback(control.close)
        await control.start()
        stack.push_async_callback(guard.close)
        await server.start()
        stack.push_async_callback(server.stop, 0.5)
        # It uses its event loop when it is collected, so that must not be left to a later cycle.
        del server
        work = asyncio.create_task(control.run())
        watch = asyncio.create_task(_cancel_on_failure(work, asyncio.current_task()))
        try:
            yield control, port
        finally:
            watch.cancel()
            work.cancel()
            # A bug that ended the work goes on to the caller, after everything is closed.
            bug = (await asyncio.gather(work, return_exceptions=True))[0]
            if isinstance(bug, Exception):
                raise bug


def build(
    settings: ControlSettings, store: Store, clock: Clock, node: Driver, lead: Lead | None = None
) -> ControlPlane:
    """The control plane over a node, or over a pool of them."""
    driver = node if lead is None else FencedDriver(node, lead.require)
    options = ControlOptions(
        site=settings.site,
        site_started_s=settings.site_started_s,
        change_s=sum(settings.delays_s),
        interval_s=settings.interval_ms / 1000.0,
        leases=settings.leases,
        demand=settings.demand,
        alarm=settings.alarm,
    )
    control = ControlPlane(store, driver, clock, settings.policy, options)
    if isinstance(node, PoolDriver):
        node.tell = functools.partial(_record, control)
    return control


def _record(control: ControlPlane, kind: str, message: str, severity: str) -> None:
    control.log.record(kind, message, severity)


async def _add_health(server: grpc.aio.Server, names: tuple[str, ...]) -> None:
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    own = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection((*names, *own), server)


def _bind(server: grpc.aio.Server, settings: ControlSettings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortInUseError(
            f"the control plane cannot listen on {address}: the port is taken",
            remedy="stop what uses it, or set ports.control (0 picks a free one)",
        ) from error
    return port


def _bind_remote(server: grpc.aio.Server, remote: RemoteSettings) -> None:
    address = f"{remote.host}:{remote.port}"
    try:
        server.add_secure_port(address, server_credentials(remote.tls))
    except RuntimeError as error:
        raise PortInUseError(
            f"the control plane cannot listen on {address} with TLS: {error}",
            remedy="set control.remote_port to a free one, and check the certificate's files",
        ) from error


def _metrics_server(control: ControlPlane, settings: ControlSettings) -> Callable[[], None]:
    """Starts it, if it is wanted; returns what stops it."""
    if settings.metrics_port is None:
        return lambda: None
    server, _ = prometheus_client.start_http_server(
        settings.metrics_port, settings.host, control.metrics.registry
    )

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop


async def _cancel_on_failure(work: asyncio.Task[None], owner: asyncio.Task[Any] | None) -> None:
    """A bug in a background loop ends the process, which the supervisor starts again."""
    await asyncio.wait({work})
    if owner is not None:
        owner.cancel()
