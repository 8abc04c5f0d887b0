"""The site's configuration: one YAML file plus `AIRAN_` environment variables.

Unknown keys and wrong types are refused with the key, the problem and the remedy. Sections are
frozen; the packages below get plain values from them, never this module's types.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from airan.core.errors import ConfigError
from airan.core.gpu_config import GpuConfig, VllmConfig
from airan.core.llama_config import LlamaModelConfig
from airan.core.market_config import MarketConfig
from airan.core.ran_config import RanConfig
from airan.core.sections import ENV_PREFIX, ForeignVariable, Port, Section

_ENV_SEPARATOR = "__"
# Variables with our prefix that are not configuration keys.
_ENV_OTHER_USES = {
    "AIRAN_CONFIG",
    "AIRAN_SITE_INSTANCE",
    "AIRAN_REMOTE",
    "AIRAN_TLS_DIR",
    "AIRAN_AS",
}

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class NodeConfig(Section):
    """The GPU node. `simulated` obeys the real geometry, placement rules and delays."""

    driver: Literal["simulated", "nvml"] = "simulated"
    """`nvml`: this host's NVIDIA GPUs, which `gpu` and `n_gpus` must name."""
    partition: Literal["mig", "mps", "green", "whole"] = "mig"
    """How GPUs are divided. Real ones are by MIG where an administrator has switched it on,
    whatever is said here; where not, by `mps` or `green`, and else each is one whole partition."""
    gpu: str = "GH200-96GB"
    n_gpus: int = Field(default=1, ge=1, le=8)
    mig_create_ms: float = Field(default=250.0, ge=0.0)
    """Assumed time to create one GPU instance with its compute instance."""
    mig_destroy_ms: float = Field(default=150.0, ge=0.0)
    """Assumed time to destroy one GPU instance."""
    cluster: str = Field(default="", pattern=r"^(|auto|[^\s:/]+:[0-9]{1,5})$")
    """Several hosts: address of a Ray cluster (`host:port` of its head, or `auto`). Each of its
    nodes that was started with the resource `airan_node` is a GPU node, of the kind above; empty:
    this machine is the only one."""
    lost_after_s: float = Field(default=3.0, ge=0.5, le=600.0)
    """A node of the cluster that has not answered for this long is lost: what ran there is
    planned anew elsewhere."""


class ControlConfig(Section):
    """The orchestrator's process."""

    database_url: str = Field(default="", pattern=r"^(|sqlite:///.+|postgresql(\+psycopg)?://.+)$")
    """`postgresql://...` lets several orchestrators stand by for one another; empty: SQLite in
    the state folder."""
    remote_host: str = ""
    """Address on which callers with a certificate are served too (mutual TLS); empty: nowhere."""
    remote_port: Port = 0
    tls_dir: Path | None = None
    """Where `airan certs make` put ca.pem, server.pem and server.key."""


class ClockConfig(Section):
    """The site's time of day: `speed` site seconds pass per wall second."""

    speed: float = Field(default=1.0, gt=0.0, le=10_000.0)
    start: str = Field(default="now", pattern=r"^(now|[0-2][0-9]:[0-5][0-9])$")
    hold_after_s: float | None = Field(default=None, gt=0.0)
    """Site seconds after the start at which the time of day stands still; None: never."""


class PolicyConfig(Section):
    """How the GPU is divided at start; `airan policy set` changes it later."""

    kind: Literal["static", "demand"] = "demand"
    ran_share: Share = 0.6
    """`static`: RAN's part of the GPU; the nearest MIG layout that covers it is taken."""
    headroom: Share = 0.10
    """`demand`: GPU share kept above RAN's forecast demand."""
    min_ran_share: Share = 0.1
    min_lease_s: float = Field(default=6.0, ge=0.0)
    """`demand`: a larger AI part is offered only if it is expected to last this long."""
    notice_ms: int = Field(default=1000, ge=0, le=60_000)
    """How long a lease holder may take to pause before its partition is taken by force."""
    interval_ms: int = Field(default=500, ge=50, le=60_000)
    """How often demand is looked at."""


class ModelConfig(Section):
    """The model the site serves."""

    name: str = "SmolLM2-135M-Instruct"
    n_ctx: int = Field(default=2048, ge=256, le=8192)
    """Context tokens of one request: prompt and completion together."""
    max_concurrent: int = Field(default=4, ge=1, le=64)
    n_threads: int = Field(default=1, ge=1, le=256)
    max_replicas: int = Field(default=1, ge=1, le=16)
    """Engines that share the lease, as many as the load calls for. 1: one has all of it."""
    idle_s: float = Field(default=0.0, ge=0.0)
    """Seconds without work after which it is unloaded until the next request; 0: never."""
    sm_per_replica: int = Field(default=16, ge=1, le=1024)
    """SMs of the lease for each of several replicas."""
    vllm: VllmConfig | None = None
    """Serves a model of one's own with vLLM; without, llama.cpp serves one of those it knows."""
    price_usd_per_1k_input_tokens: float = Field(default=0.01, ge=0.0)
    price_usd_per_1k_output_tokens: float = Field(default=0.03, ge=0.0)


class ExternalModelConfig(Section):
    """A further model, which an OpenAI-compatible server elsewhere serves. It takes no lease."""

    name: str = Field(min_length=1, max_length=200)
    """By which tenants ask for it."""
    engine: Literal["external"]
    url: str = Field(pattern=r"^https?://\S+$")
    """The server's base address, up to and with `/v1`."""
    served_as: str = ""
    """The model's name there; empty: the same."""
    key_file: Path | None = None
    """File with the API key, read at every request."""
    key_env: ForeignVariable = ""
    """Or the environment variable that holds it; not one of ours, which are configuration."""
    n_ctx: int = Field(default=8192, ge=256)
    """Context tokens of one request there."""
    max_concurrent: int = Field(default=4, ge=1, le=1024)
    """Requests sent there at once; further ones wait."""
    continues_text: bool = False
    """Whether the server goes on where a last message of the assistant ends, as llama.cpp does:
    only then is an answer continued that broke off."""
    connect_timeout_s: float = Field(default=10.0, gt=0.0)
    read_timeout_s: float = Field(default=120.0, gt=0.0)
    """Without a byte for so long, the server counts as broken."""
    patience_s: float = Field(default=20.0, ge=0.0)
    """How long a client's request waits for a server that does not answer."""
    price_usd_per_1k_input_tokens: float = Field(default=0.01, ge=0.0)
    price_usd_per_1k_output_tokens: float = Field(default=0.03, ge=0.0)


FurtherModelConfig = Annotated[
    ExternalModelConfig | LlamaModelConfig, Field(discriminator="engine")
]


class PortsConfig(Section):
    """Loopback ports; 0 picks a free one at start (see `airan status`)."""

    gateway: Port = 8080
    dashboard: Port = 8090
    control: Port = 50051
    engine: Port = 8081
    metrics: Port = 9464
    """The orchestrator's and Layer 1's Prometheus metrics; the gateway serves its own."""


class SiteConfig(Section):
    """Everything `airan up` needs to know."""

    name: str = Field(default="edge-1", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    time_zone: str = "UTC"
    """IANA name: in whose days and weeks the site's load comes back."""
    log_format: Literal["text", "json"] = "text"
    """Of the services' logs; `json` has the trace that a line belongs to."""
    state_dir: Path = Path("~/.local/state/airan")
    cache_dir: Path = Path("~/.cache/airan")
    node: NodeConfig = NodeConfig()
    gpu: GpuConfig = GpuConfig()
    control: ControlConfig = ControlConfig()
    market: MarketConfig = MarketConfig()
    clock: ClockConfig = ClockConfig()
    ran: RanConfig = RanConfig()
    policy: PolicyConfig = PolicyConfig()
    model: ModelConfig = ModelConfig()
    models: tuple[FurtherModelConfig, ...] = ()
    """Further models, on offer beside `model`: others' (`external`) and our own (`llamacpp`)."""
    ports: PortsConfig = PortsConfig()

    @property
    def external_models(self) -> tuple[ExternalModelConfig, ...]:
        """Those of `models` that others serve."""
        return tuple(one for one in self.models if isinstance(one, ExternalModelConfig))

    @property
    def llama_models(self) -> tuple[LlamaModelConfig, ...]:
        """Those of `models` that the site serves itself."""
        return tuple(one for one in self.models if isinstance(one, LlamaModelConfig))

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {name!r}") from error
        return name

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> SiteConfig:
        names = [self.model.name, *(model.name for model in self.models)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: two models are called {name!r}")
        if self.llama_models and self.model.max_replicas > 1:
            raise ValueError("models: further ones of our own need model.max_replicas 1")
        if self.model.idle_s and self.model.max_replicas > 1:
            raise ValueError("model.idle_s needs model.max_replicas 1")
        return self


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> SiteConfig:
    """Reads the YAML file at `path` (None: defaults only), then applies `AIRAN_` variables.

    `AIRAN_RAN__N_PRB=24` sets `ran.n_prb`. The state and cache folders come back absolute.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or has an unknown key or a value of
            the wrong type or range; the message names every offending key.
    """
    environ = os.environ if environ is None else environ
    values = {} if path is None else _read_yaml(path)
    source = "the AIRAN_ environment" if path is None else f"{path} and the AIRAN_ environment"
    for key, text in sorted(environ.items()):
        if key.startswith(ENV_PREFIX) and key not in _ENV_OTHER_USES:
            _set_nested(values, key, _read_variable(key, text))
    try:
        config = SiteConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"configuration from {source} is not valid: {_explain(error)}",
            remedy="correct the named keys; `airan config` prints all keys with their defaults",
        ) from error
    return config.model_copy(
        update={
            "state_dir": config.state_dir.expanduser().absolute(),
            "cache_dir": config.cache_dir.expanduser().absolute(),
        }
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror}",
            remedy="give the path of a readable YAML file with --config",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {path} is no YAML: {error}", remedy="correct the YAML syntax"
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"configuration file {path} must hold a mapping, not a {type(values).__name__}",
            remedy="start from the output of `airan config`",
        )
    return values


def _read_variable(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"environment variable {key} cannot be read: {text!r}",
            remedy=f"quote its value as YAML would, or unset {key}",
        ) from error


def _set_nested(values: dict[str, Any], variable: str, value: Any) -> None:
    keys = variable.removeprefix(ENV_PREFIX).lower().split(_ENV_SEPARATOR)
    for key in keys[:-1]:
        below = values.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"environment variable {variable} goes below {key}, which is no section",
                remedy=f"unset {variable}",
            )
        values = below
    values[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        key = ".".join(map(str, _written_keys(item["loc"]))) or "(top level)"
        if item["type"].startswith("union_tag_"):
            key += ".engine"
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: unknown key")
        else:
            problems.append(f"{key}: {item['msg']}, got {item['input']!r}")
    return "; ".join(problems)


def _written_keys(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without what pydantic adds: of which kind the model is, after its number."""
    return (*place[:2], *place[3:]) if place[0:1] == ("models",) else place
