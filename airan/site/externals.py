"""The models of the configuration that others serve, as the marketplace takes them."""

from __future__ import annotations

from airan.core.config import ExternalModelConfig, SiteConfig
from marketplace.engines.external import ExternalSettings
from marketplace.engines.external_model import ExternalModel
from marketplace.money import Price


def external_models(config: SiteConfig) -> tuple[ExternalModel, ...]:
    """The external models of the site.

    Raises:
        ConfigError: an address or the place of a key is not valid.
    """
    return tuple(map(_external_model, config.external_models))


def check_external_models(config: SiteConfig) -> None:
    """Reads every key once, so that a missing one is found before anything starts.

    Raises:
        ConfigError: an address is not valid, or a key is not there.
    """
    for model in external_models(config):
        model.settings.key()


def _external_model(model: ExternalModelConfig) -> ExternalModel:
    settings = ExternalSettings(
        model.url,
        model.served_as or model.name,
        key_env=model.key_env,
        key_file=None if model.key_file is None else model.key_file.expanduser().absolute(),
        connect_timeout_s=model.connect_timeout_s,
        read_timeout_s=model.read_timeout_s,
        continues_text=model.continues_text,
    )
    price = Price.from_usd(
        model.price_usd_per_1k_input_tokens, model.price_usd_per_1k_output_tokens
    )
    return ExternalModel(
        model.name, settings, model.n_ctx, price, model.max_concurrent, model.patience_s
    )
