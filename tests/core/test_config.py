"""The configuration refuses what it does not know, and says which key and what to do."""

import json
from pathlib import Path

import pytest
import yaml

from airan.core import config
from airan.core.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, ""), {}).ran.n_cells == 18


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "ran: {n_prb: 24}\nname: hill-top\n")
    loaded = config.load(path, {"AIRAN_RAN__N_PRB": "51", "AIRAN_STATE_DIR": "/tmp/x", "HOME": "/"})
    assert (loaded.ran.n_prb, loaded.name, loaded.state_dir) == (51, "hill-top", Path("/tmp/x"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ran: {n_prbs: 24}", "ran.n_prbs: unknown key"),
        ("colour: red", "colour: unknown key"),
        ("ran: {n_prb: many}", "ran.n_prb"),
        ("ran: {n_prb: 274}", "ran.n_prb"),
        ("policy: {kind: greedy}", "policy.kind"),
        ("ports: {gateway: 70000}", "ports.gateway"),
        ("- a list", "must hold a mapping"),
        ("ran: [", "is no YAML"),
    ],
)
def test_a_bad_value_is_refused_by_name_with_a_remedy(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), {})
    assert named in caught.value.message
    assert caught.value.remedy


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        config.load(tmp_path / "nowhere.yaml", {})


SERVER = "postgresql://airan@db.example/airan"


def test_several_gateways_share_a_postgresql() -> None:
    variables = {"AIRAN_MARKET__DATABASE_URL": SERVER, "AIRAN_MARKET__GATEWAYS": "3"}
    assert config.load(None, variables).market.gateways == 3


@pytest.mark.parametrize("url", [None, "sqlite:////tmp/market.db"])
def test_several_gateways_on_sqlite_are_refused_and_told_what_to_do(url: str | None) -> None:
    variables = {"AIRAN_MARKET__GATEWAYS": "2"}
    if url is not None:
        variables["AIRAN_MARKET__DATABASE_URL"] = url
    with pytest.raises(ConfigError, match=r"market\.gateways: .*set market\.database_url to"):
        config.load(None, variables)


def test_an_unknown_environment_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="rann: unknown key"):
        config.load(None, {"AIRAN_RANN__N_PRB": "51"})


@pytest.mark.parametrize("address", ["", "auto", "10.0.0.1:6379", "head.example:6379"])
def test_a_cluster_is_named_by_the_address_of_its_head(address: str) -> None:
    assert config.load(None, {"AIRAN_NODE__CLUSTER": address or "''"}).node.cluster == address


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port"])
def test_what_is_no_address_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.cluster"):
        config.load(None, {"AIRAN_NODE__CLUSTER": address})


EXTERNAL = {"name": "big", "engine": "external", "url": "https://models.example/v1"}


def test_a_further_model_may_be_served_elsewhere(tmp_path: Path) -> None:
    text = json.dumps({"models": [EXTERNAL | {"key_file": "big.key", "continues_text": True}]})
    model = config.load(write(tmp_path, text), {}).models[0]
    assert (model.name, model.key_file, model.n_ctx) == ("big", Path("big.key"), 8192)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"engine": "magic"}, r"models\.0\.engine"),
        ({"url": "ftp://models.example"}, r"models\.0\.url"),
        ({"key_env": "AIRAN_KEY"}, r"models\.0\.key_env.*begin with AIRAN_"),
        ({"name": config.ModelConfig().name}, "two models are called"),
    ],
)
def test_a_further_model_with_a_wrong_key_is_refused(
    tmp_path: Path, change: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        config.load(write(tmp_path, json.dumps({"models": [EXTERNAL | change]})), {})


LLAMA = {"name": "tiny", "engine": "llamacpp", "sha256": "0" * 64, "url": "https://x.example/f"}


def test_a_further_model_of_our_own_is_read(tmp_path: Path) -> None:
    text = yaml.safe_dump({"models": [LLAMA, EXTERNAL]})
    found = config.load(write(tmp_path, text), {})
    assert [model.name for model in found.llama_models] == ["tiny"]
    assert [model.name for model in found.external_models] == ["big"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": "0"}, r"models\.0\.sha256"),
        ({"path": "/x.gguf"}, "a url or a path"),
        ({"url": ""}, "a url or a path"),
        ({"name": "base:adapter"}, r"models\.0\.name"),
        ({"served_as": "x"}, r"models\.0\.served_as: unknown key"),
    ],
)
def test_a_further_model_of_our_own_with_a_wrong_key_is_refused(
    tmp_path: Path, change: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        config.load(write(tmp_path, yaml.safe_dump({"models": [LLAMA | change]})), {})
