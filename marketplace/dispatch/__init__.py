"""Which job runs next, on which engine, and what becomes of it."""

from marketplace.dispatch.dispatcher import ContextLengthError, Dispatcher, ModelOffer, Turn

__all__ = ["ContextLengthError", "Dispatcher", "ModelOffer", "Turn"]
