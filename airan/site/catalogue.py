"""The files of the further models that the site serves itself."""

from __future__ import annotations

from airan.core.config import SiteConfig
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.records import FileSource


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


def model_cache(config: SiteConfig) -> ModelCache:
    """Where they are kept, and what is known of them."""
    return ModelCache(config.cache_dir, config.state_dir)
