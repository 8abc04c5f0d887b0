"""The `gateway` process: `python -m airan.site.gateway STATE_DIR`."""

from __future__ import annotations

from airan.site.catalogue import file_sources, further_offers, own_offer
from airan.site.externals import external_models
from airan.site.main import service_main, stop_event
from airan.site.peers import federation_of
from airan.site.runtime import HOST, SiteRuntime
from marketplace.adapters.adapter import AdapterLimits
from marketplace.dispatch import TtftTargets
from marketplace.gateway.settings import GatewaySettings, OidcSettings
from marketplace.serving import run_serving


def settings_of(runtime: SiteRuntime) -> GatewaySettings:
    """The gateway's settings on this site."""
    model, market = runtime.config.model, runtime.config.market
    adapters = market.adapters
    n_replicas = model.max_replicas if model.max_replicas > 1 else 0
    replicas = [f"{runtime.engine_url}/replicas/{number}" for number in range(n_replicas)]
    further = [f"{runtime.engine_url}/models/{one.name}" for one in runtime.config.llama_models]
    return GatewaySettings(
        models=(own_offer(runtime.config), *further_offers(runtime.config)),
        engine_urls=(*(replicas or [runtime.engine_url]), *further),
        external=external_models(runtime.config),
        catalogue=file_sources(runtime.config),
        cache_dir=runtime.config.cache_dir,
        federation=federation_of(runtime.config),
        replica_urls=(runtime.engine_url,) if replicas else (),
        state_dir=runtime.config.state_dir,
        host=HOST,
        port=runtime.config.ports.gateway,
        admin_key=runtime.admin_key,
        database_url=market.database_url,
        gateways=market.gateways,
        seller=market.seller,
        grpc_port=market.grpc_port or None,
        function_hosts=market.function_hosts,
        webhook_hosts=market.webhook_hosts,
        adapter_limits=AdapterLimits(
            adapters.max_mib << 20, adapters.per_tenant, adapters.per_model
        ),
        ttft_targets=TtftTargets(**market.ttft_target_s.model_dump()),
        oidc=OidcSettings(market.oidc_issuer, market.oidc_audience) if market.oidc_issuer else None,
    )


def main(runtime: SiteRuntime) -> int:
    """Serves until stopped, or until Ray breaks beyond what it heals itself."""
    return run_serving(settings_of(runtime), stop_event())


if __name__ == "__main__":
    raise SystemExit(service_main(main))
