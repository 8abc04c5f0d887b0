"""The files of the further models that the site serves itself."""

from __future__ import annotations

from airan.core.config import SiteConfig
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.records import FileSource
from marketplace.dispatch.offers import ModelOffer
from marketplace.money import Price


def file_sources(config: SiteConfig) -> tuple[FileSource, ...]:
    """Where the file of each comes from."""
    return tuple(
        FileSource(
            model.name,
            model.sha256,
            model.url,
            None if model.path is None else model.path.expanduser().absolute(),
            model.size_bytes,
        )
        for model in config.llama_models
    )


def own_offer(config: SiteConfig) -> ModelOffer:
    """The site's own model as it is sold."""
    model, vllm = config.model, config.model.vllm
    price = Price.from_usd(
        model.price_usd_per_1k_input_tokens, model.price_usd_per_1k_output_tokens
    )
    if vllm is None:
        return ModelOffer(model.name, model.n_ctx, price)
    why = "" if vllm.max_adapters else "runs on vLLM with model.vllm.max_adapters at 0"
    return ModelOffer(model.name, model.n_ctx, price, adapter_format="peft", no_adapters=why)


def further_offers(config: SiteConfig) -> tuple[ModelOffer, ...]:
    """Each as it is sold."""
    return tuple(
        ModelOffer(
            model.name,
            model.n_ctx,
            Price.from_usd(
                model.price_usd_per_1k_input_tokens, model.price_usd_per_1k_output_tokens
            ),
            model.kind,
        )
        for model in config.llama_models
    )


def model_cache(config: SiteConfig) -> ModelCache:
    """Where they are kept, and what is known of them."""
    return ModelCache(config.cache_dir, config.state_dir)
