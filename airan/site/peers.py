"""This site's peers of the configuration, as the marketplace takes them."""

from __future__ import annotations

from airan.core.config import SiteConfig
from airan.core.errors import ConfigError
from airan.core.market_config import PeerConfig
from marketplace.engines.external import ExternalSettings
from marketplace.federation.peers import Federation, Peer
from marketplace.money import Price


def federation_of(config: SiteConfig) -> Federation:
    """The site among its peers.

    Raises:
        ConfigError: an address, a name or the place of a key is not valid.
    """
    market = config.market
    for peer in market.peers:
        if set(peer.models) != {config.model.name}:
            raise ConfigError(
                f"peer {peer.name!r} is to take {', '.join(peer.models)}, and this site serves "
                f"{config.model.name}",
                remedy="name that model alone under `models`",
            )
    peers = tuple(_peer(peer, config.model.n_ctx) for peer in market.peers)
    return Federation(config.name, market.region, peers, market.max_hops)


def check_peers(config: SiteConfig) -> None:
    """Reads every key once, so that a missing one is found before anything starts.

    Raises:
        ConfigError: an address or name is not valid, or a key is not there.
    """
    for peer in federation_of(config).peers:
        for settings in peer.models.values():
            settings.key()


def _peer(peer: PeerConfig, n_ctx: int) -> Peer:
    key_file = None if peer.key_file is None else peer.key_file.expanduser().absolute()
    models = {
        ours: ExternalSettings(
            peer.url,
            theirs,
            key_env=peer.key_env,
            key_file=key_file,
            connect_timeout_s=peer.connect_timeout_s,
            read_timeout_s=peer.read_timeout_s,
        )
        for ours, theirs in peer.models.items()
    }
    price = Price.from_usd(peer.price_usd_per_1k_input_tokens, peer.price_usd_per_1k_output_tokens)
    promises = frozenset(peer.data_policy)
    return Peer(
        peer.name,
        peer.region,
        models,
        price,
        promises,
        peer.max_concurrent,
        peer.n_ctx or n_ctx,
        is_site=peer.kind == "airan",
    )
