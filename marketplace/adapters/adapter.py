"""What is known of an adapter, and which names it may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from airan.core.errors import InvalidInputError

AdapterFormat = Literal["gguf", "peft"]
"""`gguf`: llama.cpp's one file; `peft`: the tensors of a PEFT folder, and its settings."""
AdapterState = Literal["pending", "in_progress", "ready", "failed"]
"""As the catalogue's files: no file yet, it comes in, it was checked, it is of no use."""

MAX_RANK = 256
LATE_S = 10.0
"""How long a gateway may not know that another one removed an adapter."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,46}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MODEL = 128
"""Characters of a model's name in the books."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as the store has it."""

    id: str
    tenant_id: str | None
    """Whose it is; None: the operator's, for all tenants."""
    base: str
    """The model that it changes."""
    name: str
    format: AdapterFormat
    sha256: str
    size_bytes: int
    config: str | None
    """peft: its settings, checked, as JSON."""
    state: AdapterState
    reason: str
    """failed: why."""
    rank: int | None
    """The highest of its matrices; None: its file was not read yet."""
    created_s: float
    removed_s: float | None = None
    """Since when it is not to be had any more; requests from before go on."""

    @property
    def model(self) -> str:
        """By which tenants ask for it."""
        return f"{self.base}:{self.name}"

    def is_of(self, tenant_id: str) -> bool:
        """Whether that tenant may use it."""
        return self.tenant_id in (None, tenant_id)

    def was_there(self, time_s: float) -> bool:
        """Whether a request of that time was for this one, and not for a namesake."""
        return self.created_s <= time_s and (self.removed_s is None or time_s <= self.removed_s)


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as an engine loads it."""

    id: str
    path: Path
    """gguf: the file; peft: the folder."""
    format: AdapterFormat
    sha256: str
    """Of the tensors' file."""
    rank: int

    @property
    def tensors(self) -> Path:
        """The file with the tensors, which the SHA-256 is of."""
        return self.path if self.format == "gguf" else self.path / TENSORS

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AdapterFile:
        """From to_dict()'s form."""
        return cls(**(values | {"path": Path(values["path"])}))


TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of a PEFT folder."""


@dataclass(frozen=True)
class AdapterLimits:
    """What adapters may be, and how many."""

    max_bytes: int = 256 << 20
    """Of one file."""
    per_tenant: int = 8
    per_model: int = 16
    """Each one's weights lie in the engine's memory beside the model's."""


def check_name(base: str, name: str) -> None:
    """Lets a name through that can stand behind the base model's and a colon.

    Raises:
        InvalidInputError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "name",
            f"{name[:60]!r} is no name for an adapter",
            remedy="use 1 to 48 letters, digits, dots, dashes and underscores, "
            "beginning and ending with a letter or digit",
        )
    if len(f"{base}:{name}") > _MAX_MODEL:
        raise InvalidInputError("name", f"is too long: {base}:NAME has {_MAX_MODEL} characters")


def check_sha256(text: str) -> str:
    """The digest in lower case.

    Raises:
        InvalidInputError: it is none.
    """
    if not _SHA256.fullmatch(text.lower()):
        raise InvalidInputError("sha256", "must be 64 hexadecimal digits")
    return text.lower()


class Adapters:
    """Those that a gateway knows of, as the store had them last; all calls are for one event loop.

    Removed ones are kept for the requests that came before.
    """

    def __init__(self) -> None:
        self._by_model: dict[str, list[Adapter]] = {}

    def __iter__(self) -> Iterator[Adapter]:
        return (one for namesakes in self._by_model.values() for one in namesakes)

    def take(self, rows: list[Adapter]) -> None:
        """These are all there are."""
        found: dict[str, list[Adapter]] = {}
        for one in rows:
            found.setdefault(one.model, []).append(one)
        self._by_model = found

    def put(self, adapter: Adapter) -> None:
        """Knows that one as it is now."""
        namesakes = self._by_model.setdefault(adapter.model, [])
        namesakes[:] = [one for one in namesakes if one.id != adapter.id] + [adapter]

    def refused(self, adapter_id: str, reason: str) -> Adapter | None:
        """Knows that an engine cannot load it; None: there is no such one, or it is known."""
        for one in list(self):
            if one.id == adapter_id and one.state == "ready":
                changed = replace(one, state="failed", reason=reason)
                self.put(changed)
                return changed
        return None

    def find(self, tenant_id: str, model: str, time_s: float | None = None) -> Adapter | None:
        """The one that the tenant means by `base:adapter`, now or in a request of that time.

        Where there was none at that time, the one that was removed just before: a gateway took
        the request that did not know it yet.
        """
        theirs = [one for one in self._by_model.get(model, ()) if one.is_of(tenant_id)]
        for one in theirs:
            if one.removed_s is None if time_s is None else one.was_there(time_s):
                return one
        if time_s is not None:
            for one in theirs:
                if one.removed_s is not None and 0.0 < time_s - one.removed_s < LATE_S:
                    return one
        return None

    def of_tenant(self, tenant_id: str | None) -> list[Adapter]:
        """Those that are ready and that the tenant may use, by name; None: those that all may."""
        mine = [
            one
            for one in self
            if one.removed_s is None
            and one.state == "ready"
            and (one.tenant_id is None or (tenant_id is not None and one.is_of(tenant_id)))
        ]
        return sorted(mine, key=lambda one: one.model)
