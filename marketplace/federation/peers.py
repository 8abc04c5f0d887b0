"""This site among its peers, as configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airan.core.errors import ConfigError
from marketplace.engines.external import ExternalSettings
from marketplace.engines.external_model import ExternalModel
from marketplace.federation.policy import SITE, WORD
from marketplace.money import Price


@dataclass(frozen=True)
class Peer:
    """Somebody who serves models of ours too."""

    name: str
    """Of an airan site: its own name, so that nothing is sent back to where it came from."""
    region: str
    models: Mapping[str, ExternalSettings]
    """By our name: where it is, and what it is called there."""
    price: Price
    """What the peer charges us."""
    promises: frozenset[str] = frozenset()
    """Tags of its data policy, such as `no-training`."""
    max_concurrent: int = 4
    """Requests sent there at once, of all models together."""
    n_ctx: int = 8192
    """Context tokens of one request there."""
    is_site: bool = False
    """It is an airan site: it keeps work that nobody waits for, and is asked for it again."""
    patience_s: float = 60.0
    """Without a word from it for so long, such work is done elsewhere."""

    def __post_init__(self) -> None:
        for word in (self.region, *self.promises):
            if not WORD.fullmatch(word):
                raise ConfigError(
                    f"peer {self.name!r}: {word!r} is no name of a region or policy",
                    remedy="use at most 32 small letters, digits and hyphens",
                )
        if not SITE.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a peer", remedy="use that of its site")
        if self.max_concurrent < 1 or self.n_ctx < 1:
            raise ConfigError(f"peer {self.name!r}: max_concurrent and n_ctx must be 1 or more")

    def external_name(self, model: str) -> str:
        """The name of its engine of one of our models: none that a tenant can ask for."""
        return f"peer:{self.name}/{model}"

    def external(self, model: str) -> ExternalModel:
        """One of its models as an engine."""
        name, settings = self.external_name(model), self.models[model]
        return ExternalModel(
            name, settings, self.n_ctx, self.price, self.max_concurrent, self.patience_s
        )


@dataclass(frozen=True)
class Federation:
    """This site's name and place, and its peers."""

    site: str = "airan"
    region: str = ""
    peers: tuple[Peer, ...] = field(default=())
    max_hops: int = 2
    """Sites that may have sent a request on before it comes to us, for us to send it on too."""

    def __post_init__(self) -> None:
        names = [peer.name for peer in self.peers]
        if self.site in names or len(set(names)) != len(names):
            raise ConfigError(f"peers of {self.site!r} need names of their own: {names}")
        if self.region and not WORD.fullmatch(self.region):
            raise ConfigError(f"market.region: {self.region!r} is no name of a region")
