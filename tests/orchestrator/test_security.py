"""Mutual TLS, roles and the audit log, with real certificates over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from airan.core.clock import SystemClock
from airan.core.errors import (
    AuthError,
    ConfigError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PortInUseError,
    UnavailableError,
)
from airan.core.ports import free_ports
from orchestrator.api import certificates, control_pb2
from orchestrator.api.client import ControlClient, TlsFiles
from orchestrator.api.guard import Guard
from orchestrator.api.security import CHANGES, ROLE_OF, Caller, caller_of, require_loopback
from orchestrator.control import ControlPlane
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, RemoteSettings, running
from orchestrator.views import AuditEntry

CLIENTS = {"vera": "viewer", "otto": "operator", "ada": "admin"}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    certificates.make(folder, ["localhost", "127.0.0.1"], CLIENTS)
    return folder


class Remote:
    """A control plane that serves callers with certificates."""

    def __init__(self, control: ControlPlane, local_port: int, port: int, pki: Path) -> None:
        self.control, self.pki, self.address = control, pki, f"127.0.0.1:{port}"
        self.local = ControlClient(f"127.0.0.1:{local_port}")
        self._clients: list[ControlClient] = [self.local]

    def client(self, name: str, pki: Path | None = None) -> ControlClient:
        tls = TlsFiles.of(pki or self.pki, name)
        self._clients.append(ControlClient(self.address, timeout_s=30.0, tls=tls))
        return self._clients[-1]

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


@pytest.fixture
async def remote(tmp_path: Path, pki: Path) -> AsyncIterator[Remote]:
    (port,) = free_ports(1)
    settings = ControlSettings(
        site="edge-1",
        state_dir=tmp_path,
        site_started_s=1.0,
        mig_create_ms=10.0,
        mig_destroy_ms=5.0,
        interval_ms=50,
        remote=RemoteSettings("127.0.0.1", port, TlsFiles.of(pki, "server")),
    )
    async with running(settings) as (control, local_port):
        site = Remote(control, local_port, port, pki)
        yield site
        await site.aclose()


# --- who may do what


async def test_a_viewer_sees_everything_and_changes_nothing(remote: Remote) -> None:
    vera = remote.client("vera")
    assert (await vera.status()).site == "edge-1"
    assert len(await vera.gpus()) == 1
    before = await vera.get_policy()
    with pytest.raises(ForbiddenError, match="vera is viewer and may not call PolicyService/Set"):
        await vera.set_policy(Policy("static"))
    with pytest.raises(ForbiddenError, match="operator"):
        await vera.set_policy(Policy("static"), dry_run=True)
    with pytest.raises(ForbiddenError):
        await vera.audit()
    assert await vera.get_policy() == before


async def test_a_viewer_watches_all_leases_but_not_as_their_holder(remote: Remote) -> None:
    vera = remote.client("vera")
    first = await anext(vera.watch_leases(""))
    assert first.kind == "snapshot"
    with pytest.raises(ForbiddenError, match="as a holder"):
        await anext(vera.watch_leases("engine"))


async def test_an_operator_steers_but_does_not_read_the_audit_log(remote: Remote) -> None:
    otto = remote.client("otto")
    await otto.set_policy(Policy("static", ran_share=0.5))
    assert remote.control.policy.ran_share == 0.5
    with pytest.raises(ForbiddenError, match="admin"):
        await otto.audit()


async def test_every_method_has_a_role_and_changes_need_more_than_looking(
    remote: Remote,
) -> None:
    services = control_pb2.DESCRIPTOR.services_by_name.values()
    methods = {f"{one.name}/{method.name}" for one in services for method in one.methods}
    assert set(ROLE_OF) == methods
    assert methods >= CHANGES
    assert all(ROLE_OF[name] != "viewer" for name in CHANGES)
    looking = ("Get", "List", "Watch")
    for name in methods - {"SiteService/ListAudit"}:
        assert (ROLE_OF[name] == "viewer") == name.split("/")[1].startswith(looking)


async def test_changes_are_recorded_with_who_asked_and_what_came_of_it(remote: Remote) -> None:
    vera, otto, ada = (remote.client(name) for name in CLIENTS)
    await otto.set_policy(Policy("static", ran_share=0.4))
    await otto.set_policy(Policy("static", ran_share=0.9), dry_run=True)
    with pytest.raises(ForbiddenError):
        await vera.set_policy(Policy("static", ran_share=0.1))
    with pytest.raises(NotFoundError):
        await otto.revoke_lease("lease-none", "a test")
    (gpu,) = await otto.gpus()
    await remote.local.set_maintenance(gpu.uuid, on=True, reason="new fans")
    entries = await ada.audit()
    assert [(one.actor, one.role, one.method, one.outcome) for one in entries] == [
        ("otto", "operator", "PolicyService/SetPolicy", "ok"),
        ("vera", "viewer", "PolicyService/SetPolicy", "PERMISSION_DENIED"),
        ("otto", "operator", "CapacityService/RevokeLease", "NOT_FOUND"),
        ("local", "admin", "SiteService/SetMaintenance", "ok"),
    ]
    assert json.loads(entries[0].request)["policy"]["ran_share"] == 0.4
    assert "lease-none" in entries[2].message
    assert [one.seq for one in entries] == sorted({one.seq for one in entries})
    assert await ada.audit(actor="otto", method="CapacityService/RevokeLease") == [entries[2]]
    assert await ada.audit(after_seq=entries[2].seq) == [entries[3]]


# --- who gets in


async def test_without_a_certificate_nobody_gets_in(remote: Remote) -> None:
    authority = grpc.ssl_channel_credentials((remote.pki / "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(remote.address, authority) as channel:
        call: Any = channel.unary_unary("/airan.control.v1.PolicyService/GetPolicy")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=30.0)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    async with ControlClient(remote.address, timeout_s=30.0) as plain:
        with pytest.raises(UnavailableError):
            await plain.status()


async def test_another_authoritys_certificate_is_turned_away(
    remote: Remote, tmp_path: Path
) -> None:
    certificates.make(tmp_path / "other", ["127.0.0.1"], {"ada": "admin"})
    # It trusts our server, so that only its own certificate is wrong.
    ours = (remote.pki / "ca.pem").read_bytes()
    (tmp_path / "other" / "ca.pem").write_bytes(ours)
    with pytest.raises(UnavailableError):
        await remote.client("ada", tmp_path / "other").status()


async def test_a_server_of_another_authority_is_not_trusted(remote: Remote, tmp_path: Path) -> None:
    certificates.make(tmp_path / "other", ["127.0.0.1"], {"ada": "admin"})
    for suffix in ("pem", "key"):
        ours = (remote.pki / f"ada.{suffix}").read_bytes()
        (tmp_path / "other" / f"ada.{suffix}").write_bytes(ours)
    with pytest.raises(UnavailableError):
        await remote.client("ada", tmp_path / "other").status()


async def test_the_servers_certificate_is_no_clients(remote: Remote) -> None:
    with pytest.raises(UnavailableError):
        await remote.client("server").status()


def context_of(pem: bytes | None, peer: str = "ipv4:127.0.0.1:5000") -> Any:
    auth = {} if pem is None else {"transport_security_type": [b"ssl"], "x509_pem_cert": [pem]}
    return SimpleNamespace(auth_context=lambda: auth, peer=lambda: peer)


def test_the_caller_is_who_the_certificate_names(pki: Path) -> None:
    assert caller_of(context_of((pki / "otto.pem").read_bytes())) == Caller("otto", "operator")
    assert caller_of(context_of(None)) == Caller("local", "admin")
    assert caller_of(context_of(None, "ipv6:%5B::1%5D:5000")) == Caller("local", "admin")


@pytest.mark.parametrize("pem", [b"", b"no certificate"])
def test_a_caller_without_a_readable_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(AuthError, match="no role"):
        caller_of(context_of(pem))


def test_a_caller_whose_certificate_names_no_role_is_refused(pki: Path) -> None:
    with pytest.raises(AuthError, match="no role"):
        caller_of(context_of((pki / "server.pem").read_bytes()))


def test_from_elsewhere_without_tls_nobody_is_local() -> None:
    with pytest.raises(AuthError, match="without TLS"):
        caller_of(context_of(None, "ipv4:192.168.1.7:5000"))


# --- the files


def test_keys_are_their_owners_and_clients_can_be_added_later(tmp_path: Path) -> None:
    made = certificates.make(tmp_path, ["edge-1.example"], {"ada": "admin"})
    assert {path.name for path in made} == {"ca.pem", "server.pem", "ada.pem"}
    for key in tmp_path.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    authority = (tmp_path / "ca.pem").read_bytes()
    (bob,) = certificates.make(tmp_path, ["edge-1.example"], {"ada": "admin", "bob": "viewer"})
    assert bob.name == "bob.pem"
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert certificates.read_subject(bob.read_bytes()) == ("bob", "viewer")


@pytest.mark.parametrize(
    ("hosts", "clients", "field"),
    [
        ([], {}, "hosts"),
        (["localhost"], {"eve": "root"}, "role"),
        (["localhost"], {"../eve": "admin"}, "client"),
        (["localhost"], {"": "admin"}, "client"),
        (["localhost"], {"server": "admin"}, "client"),
    ],
)
def test_certificates_of_nonsense_are_not_made(
    tmp_path: Path, hosts: list[str], clients: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        certificates.make(tmp_path / "pki", hosts, clients)
    assert refused.value.field == field
    assert not (tmp_path / "pki").exists()


def test_missing_tls_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ada"):
        TlsFiles.of(tmp_path, "ada").read()


async def test_a_remote_port_that_is_taken_is_named(tmp_path: Path, pki: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        far = RemoteSettings("127.0.0.1", port, TlsFiles.of(pki, "server"))
        settings = ControlSettings("edge-1", tmp_path, 1.0, remote=far)
        with pytest.raises(PortInUseError, match=str(port)):
            async with running(settings):
                pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "edge-1.example"])
def test_only_loopback_is_served_without_tls(host: str) -> None:
    with pytest.raises(ConfigError, match="not a loopback address"):
        require_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    require_loopback(host)


# --- deadlines, and callers that go away


class Log:
    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def add_audit(self, entry: AuditEntry) -> AuditEntry:
        self.entries.append(entry)
        return entry


class Slow:
    """A method that waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.finished = False

    async def __call__(self, request: Any, context: Any) -> Any:
        self.begun.set()
        try:
            await self.go.wait()
            self.finished = True
        finally:
            self.over.set()
        return control_pb2.SetPolicyResponse()


async def guarded(
    path: str, request: Any, slow: Slow, log: Log, max_s: float, use: Callable[[Any], Any]
) -> None:
    """Serves `slow` under the method's name, and lets `use` call it."""
    guard = Guard(log, SystemClock(), max_s)
    server = grpc.aio.server(interceptors=(guard,))
    service, method = path.rsplit("/", 1)
    handler = grpc.unary_unary_rpc_method_handler(
        slow,
        request_deserializer=type(request).FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/" + path)
            async with asyncio.timeout(30):
                await use(lambda **options: call(request.SerializeToString(), **options))
    finally:
        await server.stop(None)
        await guard.close()


async def test_a_call_without_a_deadline_gets_the_servers(tmp_path: Path) -> None:
    slow = Slow()

    async def use(call: Callable[..., Any]) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await call()
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.5 s" in (late.value.details() or "")
        await slow.over.wait()

    request = control_pb2.GetStatusRequest()
    await guarded("airan.control.v1.SiteService/GetStatus", request, slow, Log(), 0.5, use)
    assert not slow.finished


async def test_reading_stops_when_the_client_is_gone() -> None:
    slow = Slow()

    async def use(call: Callable[..., Any]) -> None:
        pending = call()
        await slow.begun.wait()
        pending.cancel()
        await slow.over.wait()

    request = control_pb2.GetStatusRequest()
    await guarded("airan.control.v1.SiteService/GetStatus", request, slow, Log(), 30.0, use)
    assert not slow.finished


async def test_a_change_that_has_begun_is_finished_and_recorded_without_its_client() -> None:
    slow, log = Slow(), Log()

    async def use(call: Callable[..., Any]) -> None:
        pending = call()
        await slow.begun.wait()
        pending.cancel()
        slow.go.set()
        await slow.over.wait()

    request = control_pb2.SetPolicyRequest()
    await guarded("airan.control.v1.PolicyService/SetPolicy", request, slow, log, 30.0, use)
    assert slow.finished
    assert [(one.actor, one.outcome) for one in log.entries] == [("local", "ok")]


async def test_a_method_that_is_in_no_list_is_refused() -> None:
    slow = Slow()

    async def use(call: Callable[..., Any]) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    request = control_pb2.GetStatusRequest()
    await guarded("airan.control.v1.SiteService/Format", request, slow, Log(), 30.0, use)
    assert not slow.begun.is_set()
