"""The configuration of the marketplace: accounts, money, promises and peers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from airan.core.sections import ForeignVariable, Port, Section


class TtftTargetConfig(Section):
    """Seconds to the first token that each service tier promises; a request that would have to
    wait longer, by what was measured, is refused at once."""

    priority: float = Field(default=5.0, gt=0.0, le=86_400.0)
    default: float = Field(default=30.0, gt=0.0, le=86_400.0)
    flex: float = Field(default=1800.0, gt=0.0, le=86_400.0)


class PeerConfig(Section):
    """A peer that serves a model of ours too: another airan site, or any OpenAI-compatible cloud.
    It takes requests that this site cannot serve in time, of tenants whose data may go there."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Of an airan site: its own `name`."""
    kind: Literal["airan", "openai"] = "openai"
    """`airan`: another site, which keeps what nobody waits for until it is asked for it again."""
    url: str = Field(pattern=r"^https?://\S+$")
    """Its base address, up to and with `/v1`."""
    models: dict[str, str] = Field(min_length=1)
    """Our model's name: its name there."""
    region: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    data_policy: tuple[str, ...] = ()
    """What it promises, such as `no-training`."""
    key_file: Path | None = None
    """File with the API key, read at every request."""
    key_env: ForeignVariable = ""
    """Or the environment variable that holds it; not one of ours, which are configuration."""
    max_concurrent: int = Field(default=4, ge=1, le=1024)
    """Requests sent there at once, of all models together."""
    n_ctx: int | None = Field(default=None, ge=256)
    """Context tokens of one request there; empty: as many as here."""
    connect_timeout_s: float = Field(default=3.0, gt=0.0)
    read_timeout_s: float = Field(default=30.0, gt=0.0)
    """Without a byte for so long, the answer goes on elsewhere."""
    price_usd_per_1k_input_tokens: float = Field(default=0.01, ge=0.0)
    """What it charges us."""
    price_usd_per_1k_output_tokens: float = Field(default=0.03, ge=0.0)


class AdapterConfig(Section):
    """What LoRA adapters tenants may bring, and how many."""

    max_mib: int = Field(default=256, ge=1, le=16_384)
    """Of one file."""
    per_tenant: int = Field(default=8, ge=0, le=1024)
    per_model: int = Field(default=16, ge=0, le=1024)
    """Each one's weights lie in the engine's memory beside the model's."""


class MarketConfig(Section):
    """The marketplace's accounts, money and promises."""

    database_url: str = Field(default="", pattern=r"^(|sqlite:///.+|postgresql(\+psycopg)?://.+)$")
    """Empty: SQLite in the state folder."""
    gateways: int = Field(default=1, ge=1, le=16)
    """Gateway processes, which share the port and the work; more than one need PostgreSQL."""
    seller: str = Field(default="airan", min_length=1, max_length=80)
    """The sender of the invoices."""
    oidc_issuer: str = Field(
        default="", pattern=r"^(|https://.+|http://(127\.0\.0\.1|localhost)[:/].*)$"
    )
    """URL of the OpenID Connect provider at which people log in; empty: nobody does."""
    oidc_audience: str = ""
    """Our client id with that provider."""
    grpc_port: Port = 0
    """Loopback port on which invocations are taken over gRPC; 0: nowhere."""
    function_hosts: tuple[str, ...] = ()
    """Hosts (`host` or `host:port`) on which tenants' functions may run; empty: models only."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks may go to though they are not public, or take plain http."""
    ttft_target_s: TtftTargetConfig = TtftTargetConfig()
    adapters: AdapterConfig = AdapterConfig()
    region: str = Field(default="", pattern=r"^(|[a-z0-9][a-z0-9-]{0,31})$")
    """Where this site is, for what other sites send; without, it takes nothing from them."""
    peers: tuple[PeerConfig, ...] = ()
    """Who takes what overflows here."""
    max_hops: int = Field(default=2, ge=1, le=16)
    """Sites that may have sent a request on before us, for us to send it on too."""

    @field_validator("gateways")
    @classmethod
    def _share_a_server(cls, gateways: int, before: ValidationInfo) -> int:
        url = before.data.get("database_url", "postgresql:")
        if gateways > 1 and not url.startswith("postgresql"):
            raise ValueError(
                "several gateways share a PostgreSQL: set market.database_url to"
                " postgresql://..., or market.gateways to 1"
            )
        return gateways
