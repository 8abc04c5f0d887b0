"""Which job runs next, on which engine, and what becomes of it."""

from marketplace.dispatch.dispatcher import Dispatcher
from marketplace.dispatch.offers import ContextLengthError, ModelOffer
from marketplace.dispatch.turns import Turn

__all__ = ["ContextLengthError", "Dispatcher", "ModelOffer", "Turn"]
