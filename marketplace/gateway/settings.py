"""What the gateway needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from airan.core.errors import ConfigError
from marketplace.adapters.adapter import AdapterLimits
from marketplace.catalogue.records import FileSource
from marketplace.dispatch import ModelOffer, TtftTargets
from marketplace.engines.external_model import ExternalModel
from marketplace.federation.peers import Federation
from marketplace.webhooks import RETRY_SCHEDULE_S


@dataclass(frozen=True)
class OidcSettings:
    """The identity provider, and for whom its tokens must be meant."""

    issuer: str
    """Its URL, letter for letter as in its tokens."""
    audience: str
    """Our client id with it."""
    leeway_s: float = 30.0
    """How far its clock and ours may differ."""
    keys_valid_s: float = 3600.0
    """How long its keys are used without asking again; an unknown one is asked for at once."""
    ask_again_s: float = 30.0
    """Unknown keys do not make us ask more often than this."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        if not local and (parts.scheme != "https" or not parts.hostname):
            raise ConfigError(
                f"the identity provider {self.issuer!r} is not reached by https",
                remedy="give its https:// address",
            )
        if not self.audience:
            raise ConfigError("the identity provider's audience is empty", remedy="set it")


@dataclass(frozen=True)
class GatewaySettings:
    """Settings of one gateway."""

    models: tuple[ModelOffer, ...]
    engine_urls: tuple[str, ...]
    """Addresses of the engine agents' state servers, e.g. http://127.0.0.1:8081."""
    state_dir: Path
    """Holds the database (unless `database_url` says otherwise) and the lock against another
    site's gateways."""
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    """Where invocations are taken over gRPC; 0: any free port; None: nowhere."""
    database_url: str = ""
    gateways: int = 1
    """Processes that share the port and a PostgreSQL."""
    admin_key: str = ""
    admin_key_file: Path | None = None
    """Read at start if `admin_key` is empty; without either, /admin/v1 is closed."""
    oidc: OidcSettings | None = None
    """People log in at this identity provider; None: nobody does."""
    external: tuple[ExternalModel, ...] = ()
    """Models that others serve, on offer beside `models`."""
    catalogue: tuple[FileSource, ...] = ()
    """Files of those of `models` that are fetched at run time."""
    cache_dir: Path = Path("~/.cache/airan")
    """Where these files are."""
    federation: Federation = field(default_factory=Federation)
    """This site's name and region, and the peers that take what overflows."""
    replica_urls: tuple[str, ...] = ()
    """Addresses of engines with several replicas, whose number follows the load; each replica's
    own is `.../replicas/N`, among the `engine_urls`."""
    seller: str = "airan"
    """Who stands on the invoices as their sender."""
    temp_dir: Path | None = None
    """Ray's session files; None takes a short path of this site's own under /tmp."""
    max_body_bytes: int = 1 << 20
    max_file_bytes: int = 64 << 20
    max_batch_lines: int = 50_000
    adapter_limits: AdapterLimits = field(default_factory=AdapterLimits)
    max_waiting: int = 512
    """Requests of one tenant that may wait for one model."""
    ttft_targets: TtftTargets = field(default_factory=TtftTargets)
    """Who would have to wait longer for the first token is refused."""
    engine_wait_s: float = 20.0
    """How long a request waits for an engine to appear before it is answered 503."""
    function_hosts: tuple[str, ...] = ()
    """Hosts (`host` or `host:port`) on which tenants' functions may run; none: models only."""
    function_price_micro_usd: int = 1000
    """Of one invocation of a container that a tenant brought."""
    max_functions: int = 100
    """Of one tenant."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts (`host` or `host:port`) that webhooks may go to though they are not public, or take
    plain http."""
    webhook_schedule_s: tuple[float, ...] = RETRY_SCHEDULE_S
    """Pauses after the attempts of a webhook that failed."""
    large_result_bytes: int = 5 << 20
    """Results longer than this are fetched from an address of their own (302)."""

    def __post_init__(self) -> None:
        if self.gateways > 1 and not self.database_url.startswith("postgresql"):
            raise ConfigError(
                f"{self.gateways} gateways cannot share this database",
                remedy="set market.database_url to postgresql://..., or market.gateways to 1",
            )

    @property
    def offers(self) -> dict[str, ModelOffer]:
        """All models on offer, by name.

        Raises:
            ConfigError: two have the same name.
        """
        others = (
            ModelOffer(one.name, one.n_ctx, one.price, no_adapters="runs on an external engine")
            for one in self.external
        )
        offers: dict[str, ModelOffer] = {}
        for offer in (*self.models, *others):
            if offer.name in offers:
                raise ConfigError(f"two models are called {offer.name!r}", remedy="rename one")
            offers[offer.name] = offer
        return offers

    @property
    def gateways_dir(self) -> Path:
        """Where those of this site note their processes, to be watched."""
        return self.state_dir / "gateways"

    @property
    def url_of_database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'marketplace.db'}"

    def read_admin_key(self) -> str:
        """The admin key, or an empty string.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.admin_key or self.admin_key_file is None:
            return self.admin_key
        try:
            return self.admin_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"admin key file {self.admin_key_file} cannot be read: {error.strerror}",
                remedy="run airan up once, which writes it, or correct its permissions",
            ) from error
