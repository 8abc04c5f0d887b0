"""Checks of JSON bodies and times that several interfaces share."""

from __future__ import annotations

import math
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from airan.core.errors import InvalidInputError
from marketplace.chat import explain
from marketplace.gateway.reading import read_json
from marketplace.gateway.runtime import Runtime
from marketplace.principal import DEFAULT_SCOPES
from marketplace.store.keys import KeySpec

_DAY_S = 86_400.0
_MAX_TIME_S = 1e11


def _printable(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError("must be a printable text")
    return text


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
Id = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
MicroUsd = Annotated[int, Field(ge=0, le=10**15)]
Time = Annotated[float, Field(ge=0, le=_MAX_TIME_S, allow_inf_nan=False)]


class Body(BaseModel):
    """A JSON object in which every key must be known and of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class KeyBody(Body):
    """What a key to be made is for."""

    name: Name = "default"
    project: Name | None = None
    scopes: list[str] = Field(default_factory=lambda: list[str](DEFAULT_SCOPES))
    models: list[Id] | None = None
    expires_s: Time | None = None

    def spec(self) -> KeySpec:
        """The key's description."""
        models = None if self.models is None else tuple(self.models)
        return KeySpec(self.name, self.project, tuple(self.scopes), models, self.expires_s)


class Rotation(Body):
    """How a key is to be replaced."""

    grace_s: Annotated[float, Field(ge=0, le=90 * _DAY_S)] = _DAY_S


B = TypeVar("B", bound=Body)


async def read_as(runtime: Runtime, request: Request, kind: type[B]) -> B:
    """The request's body, checked.

    Raises:
        ApiError: 400, 413 or 415.
        InvalidInputError: it is another object than `kind`; the message names the key.
    """
    values = await read_json(request, runtime.settings.max_body_bytes)
    if not isinstance(values, dict):
        raise InvalidInputError("body", "must be a JSON object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error


def time_range(start: float | None, end: float | None, now_s: float) -> tuple[float, float]:
    """From when until when; without a beginning the last 30 days.

    Raises:
        InvalidInputError: a time is out of range.
    """
    for name, value in (("start_time", start), ("end_time", end)):
        if value is not None and not (math.isfinite(value) and 0 <= value <= _MAX_TIME_S):
            raise InvalidInputError(name, "must be a Unix time in seconds")
    until_s = now_s + 1.0 if end is None else end
    return (max(0.0, until_s - 30 * _DAY_S) if start is None else start), until_s
