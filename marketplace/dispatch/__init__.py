"""Which job runs next, on which engine, and what becomes of it."""

from marketplace.dispatch.admission import TierUnreachableError, TtftTargets
from marketplace.dispatch.dispatcher import Dispatcher
from marketplace.dispatch.offers import ContextLengthError, ModelOffer
from marketplace.dispatch.turns import Turn

__all__ = [
    "ContextLengthError",
    "Dispatcher",
    "ModelOffer",
    "TierUnreachableError",
    "TtftTargets",
    "Turn",
]
