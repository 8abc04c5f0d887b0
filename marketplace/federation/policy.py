"""Where a tenant's data may go. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from airan.core.errors import InvalidInputError

WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""A region or a tag of a data policy."""
SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""The name of a site."""
MAX_CHARS = 512
_MAX_WORDS = 16
_REMEDY = "write `stay`, or `regions=eu,us`, or `regions=eu; needs=no-training`"


@dataclass(frozen=True)
class DataPolicy:
    """Prompts go to peers in these regions alone, and only to those that promise all of `needs`."""

    regions: frozenset[str] = frozenset()
    """None: what was asked here stays here."""
    needs: frozenset[str] = frozenset()

    def allows(self, region: str, promises: Collection[str]) -> bool:
        """Whether a prompt may go to a peer there that promises so much."""
        return region in self.regions and self.needs.issubset(promises)

    def narrowed(self, other: DataPolicy | None) -> DataPolicy:
        """What both allow."""
        if other is None:
            return self
        return DataPolicy(self.regions & other.regions, self.needs | other.needs)

    def __str__(self) -> str:
        if not self.regions:
            return "stay"
        text = "regions=" + ",".join(sorted(self.regions))
        return text + ("; needs=" + ",".join(sorted(self.needs)) if self.needs else "")


STAY = DataPolicy()


def parse_policy(text: str, field: str = "policy") -> DataPolicy:
    """The policy as written by str().

    Raises:
        InvalidInputError: it is none; `field` names where it stood.
    """
    if text.strip() == "stay":
        return STAY
    found: dict[str, frozenset[str]] = {}
    for part in text[: MAX_CHARS + 1].split(";"):
        name, _, listed = part.partition("=")
        words = [word.strip() for word in listed.split(",")]
        known = name.strip() in ("regions", "needs") and name.strip() not in found
        if not known or len(words) > _MAX_WORDS or not all(map(WORD.fullmatch, words)):
            raise InvalidInputError(field, f"is no data policy: {text[:80]!r}", remedy=_REMEDY)
        found[name.strip()] = frozenset(words)
    if "regions" not in found or len(text) > MAX_CHARS:
        raise InvalidInputError(field, "names no regions, or too many", remedy=_REMEDY)
    return DataPolicy(found["regions"], found.get("needs", frozenset()))
