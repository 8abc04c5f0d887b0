"""What is decided once at the site's start, and found again by every process of it."""

import json
import socket
import stat
from pathlib import Path

import pytest

from airan.core import config
from airan.core.errors import ConfigError, NotFoundError, PortInUseError
from airan.site import gateway, runtime
from airan.site.externals import check_external_models
from airan.site.peers import check_peers
from marketplace.adapters.adapter import AdapterLimits
from marketplace.dispatch import TtftTargets


def site(tmp_path: Path, **environ: str) -> config.SiteConfig:
    ports = {
        f"AIRAN_PORTS__{name}": "0"
        for name in ("GATEWAY", "DASHBOARD", "CONTROL", "ENGINE", "METRICS")
    }
    return config.load(None, ports | {"AIRAN_STATE_DIR": str(tmp_path)} | environ)


def test_a_saved_runtime_comes_back_the_same(tmp_path: Path) -> None:
    resolved = runtime.resolve(site(tmp_path))
    resolved.save()
    assert runtime.load(tmp_path) == resolved


def test_free_ports_are_decided_and_differ(tmp_path: Path) -> None:
    ports = runtime.resolve(site(tmp_path)).config.ports.model_dump().values()
    assert len(set(ports)) == 5
    assert 0 not in ports


def test_the_admin_key_is_kept_over_restarts_and_private(tmp_path: Path) -> None:
    first, second = runtime.resolve(site(tmp_path)), runtime.resolve(site(tmp_path))
    first.save()
    assert first.admin_key == second.admin_key
    for path in (tmp_path / "admin.key", tmp_path / "run" / "site.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_taken_port_is_refused_by_name(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"ports\.gateway: port {port}") as caught:
            runtime.resolve(site(tmp_path, AIRAN_PORTS__GATEWAY=str(port)))
    assert "AIRAN_PORTS__GATEWAY" in str(caught.value)


def test_one_port_for_two_services_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortInUseError, match="two services"):
        runtime.resolve(site(tmp_path, AIRAN_PORTS__GATEWAY="8123", AIRAN_PORTS__CONTROL="8123"))


def test_a_folder_without_a_site_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="airan up"):
        runtime.load(tmp_path)


def test_promises_and_replicas_of_the_configuration_reach_the_gateway(tmp_path: Path) -> None:
    plain = gateway.settings_of(runtime.resolve(site(tmp_path)))
    assert (len(plain.engine_urls), plain.replica_urls) == (1, ())
    assert plain.ttft_targets == TtftTargets()
    changes = {"MODEL__MAX_REPLICAS": "2", "MARKET__TTFT_TARGET_S__PRIORITY": "0.5"}
    asked = {f"AIRAN_{name}": value for name, value in changes.items()}
    changed = gateway.settings_of(runtime.resolve(site(tmp_path, **asked)))
    (engine,) = changed.replica_urls
    assert changed.engine_urls == (f"{engine}/replicas/0", f"{engine}/replicas/1")
    assert changed.ttft_targets == TtftTargets(priority=0.5)


def external(tmp_path: Path, **changes: str) -> config.SiteConfig:
    model = {"name": "big", "engine": "external", "url": "https://models.example/v1"} | changes
    return site(tmp_path, AIRAN_MODELS=json.dumps([model]))


def test_limits_of_adapters_reach_the_gateway(tmp_path: Path) -> None:
    assert gateway.settings_of(runtime.resolve(site(tmp_path))).adapter_limits == AdapterLimits()
    asked = {"AIRAN_MARKET__ADAPTERS__MAX_MIB": "32", "AIRAN_MARKET__ADAPTERS__PER_TENANT": "2"}
    changed = gateway.settings_of(runtime.resolve(site(tmp_path, **asked)))
    assert changed.adapter_limits == AdapterLimits(32 << 20, per_tenant=2)


def test_models_that_others_serve_reach_the_gateway_without_their_key(tmp_path: Path) -> None:
    path = tmp_path / "big.key"
    path.write_text("sk-secret")
    resolved = runtime.resolve(external(tmp_path, key_file=str(path), served_as="big-2"))
    settings = gateway.settings_of(resolved)
    (model,) = settings.external
    assert list(settings.offers) == [resolved.config.model.name, "big"]
    assert (model.settings.model, model.settings.key_file) == ("big-2", path)
    resolved.save()
    assert "sk-secret" not in repr(settings) + (tmp_path / "run" / "site.json").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_file": "nowhere.key"}, "nowhere.key cannot be read"),
        ({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY holds no usable API key"),
        ({"url": "https://me:hunter2@models.example/v1"}, "its URL holds credentials"),
        ({"url": "http://models.example/v1", "key_env": "HOME"}, "would travel unencrypted"),
    ],
)
def test_what_an_external_model_lacks_is_told_before_anything_starts(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check_external_models(external(tmp_path, **changes))
    assert "hunter2" not in str(raised.value)


def with_peer(folder: Path, **changes: object) -> config.SiteConfig:
    (folder / "b.key").write_text("sk-secret")
    values = {
        "name": "site-b",
        "url": "https://site-b.example/v1",
        "region": "eu",
        "models": {"SmolLM2-135M-Instruct": "theirs"},
        "key_file": str(folder / "b.key"),
        "data_policy": ["no-training"],
    }
    market = {"region": "eu", "peers": [values | changes]}
    return config.SiteConfig.model_validate({"state_dir": str(folder), "market": market})


def test_peers_reach_the_gateway_without_their_key(tmp_path: Path) -> None:
    resolved = runtime.resolve(with_peer(tmp_path))
    check_peers(resolved.config)
    settings = gateway.settings_of(resolved)
    (peer,) = settings.federation.peers
    assert (settings.federation.site, settings.federation.region) == ("edge-1", "eu")
    assert peer.models["SmolLM2-135M-Instruct"].model == "theirs"
    assert (peer.promises, peer.n_ctx) == (frozenset({"no-training"}), 2048)
    assert "sk-secret" not in repr(settings)
    # Nothing is kept by a peer of which nobody said that it is a site.
    assert not peer.is_site
    site = gateway.settings_of(runtime.resolve(with_peer(tmp_path, kind="airan")))
    assert site.federation.peers[0].is_site


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_file": "nowhere.key"}, "cannot be read"),
        ({"models": {"other": "theirs"}}, "this site serves SmolLM2"),
        ({"url": "http://site-b.example/v1"}, "would travel unencrypted"),
        ({"name": "edge-1"}, "names of their own"),
    ],
)
def test_what_a_peer_lacks_is_told_before_anything_starts(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_peers(with_peer(tmp_path, **changes))
