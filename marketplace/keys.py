"""API keys: made of randomness, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets

KEY_PREFIX = "ak-"
_ENTROPY_BYTES = 32
_SHOWN_CHARACTERS = 10


def new_key() -> str:
    """A new key with 256 bits of entropy."""
    return KEY_PREFIX + secrets.token_urlsafe(_ENTROPY_BYTES)


def key_hash(key: str) -> str:
    """SHA-256 of the key, in hex.

    A plain hash does: the key is random, so nothing can be guessed from it, and looking a hash up
    takes no time that depends on how much of a wrong key is right.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def shown_prefix(key: str) -> str:
    """The part of the key that may be shown later to tell keys apart."""
    return key[:_SHOWN_CHARACTERS]
