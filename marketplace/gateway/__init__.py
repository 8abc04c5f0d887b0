"""The HTTP gateway: OpenAI's interface, NVCF-style invocation, administration."""

from marketplace.dispatch import ModelOffer
from marketplace.gateway.app import build_app
from marketplace.gateway.settings import GatewaySettings
from marketplace.money import Price

__all__ = ["GatewaySettings", "ModelOffer", "Price", "build_app"]
