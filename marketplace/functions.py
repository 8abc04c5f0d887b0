"""Functions: names for a model, or for any container that answers over HTTP."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airan.core.errors import InvalidInputError
from marketplace.chat import explain
from marketplace.outbound import AllowedHosts

MAX_TIMEOUT_S = 1200.0
MAX_RESPONSE_BYTES = 32 << 20

_Path = Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=1024)]


@dataclass(frozen=True)
class Function:
    """One version of a function. Either `model` or `url` is given."""

    id: str
    version_id: str
    tenant_id: str | None
    """None: every tenant may call it."""
    name: str
    model: str | None
    url: str | None
    inference_path: str | None
    health_path: str | None
    timeout_s: float
    """For one attempt."""
    max_response_bytes: int
    price_micro_usd: int
    """Of one invocation of a container; a model's tokens have their own price."""
    created_s: float

    @property
    def inference_url(self) -> str:
        """Where a container takes invocations."""
        return f"{(self.url or '').rstrip('/')}{self.inference_path}"

    @property
    def health_url(self) -> str:
        """Where a container says whether it is well."""
        return f"{(self.url or '').rstrip('/')}{self.health_path}"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._ -]+$")]
    model: str | None = None
    url: str | None = None
    inferenceUrl: _Path = "/"  # noqa: N815 - NVCF's own spelling
    healthUri: _Path = "/health"  # noqa: N815
    timeoutSeconds: Annotated[float, Field(ge=1.0, le=MAX_TIMEOUT_S)] = 60.0  # noqa: N815
    maxResponseBytes: Annotated[  # noqa: N815
        int, Field(strict=True, ge=1, le=MAX_RESPONSE_BYTES)
    ] = 5 << 20


def parse_function(values: Any, models: frozenset[str], hosts: AllowedHosts) -> dict[str, Any]:
    """A checked description of a function: the columns of its row that its owner chooses.

    Raises:
        InvalidInputError: something is missing or wrong, or the host is not allowed.
    """
    if not isinstance(values, dict):
        raise InvalidInputError("body", "must be a JSON object")
    try:
        body = _Body.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error
    if (body.model is None) == (body.url is None):
        raise InvalidInputError("url", "either url or model must be given, and not both")
    if body.model is not None and body.model not in models:
        raise InvalidInputError("model", f"{body.model!r} is not served here")
    if body.url is not None:
        hosts.check_listed("url", body.url)
        if "?" in body.url:
            raise InvalidInputError("url", "must have no query: inferenceUrl may have one")
    return {
        "name": body.name,
        "model": body.model,
        "url": body.url,
        "inference_path": body.inferenceUrl,
        "health_path": body.healthUri,
        "timeout_s": body.timeoutSeconds,
        "max_response_bytes": body.maxResponseBytes,
    }


def new_function_id() -> str:
    """NVCF's ids are UUIDs."""
    return str(uuid.uuid4())


def function_object(function: Function, status: str) -> dict[str, Any]:
    """A function as its clients see it, with NVCF's field names. A container's address is its
    owner's business, and shown to nobody else."""
    shown: dict[str, Any] = {
        "id": function.id,
        "versionId": function.version_id,
        "name": function.name,
        "status": status,
        "public": function.tenant_id is None,
        "createdAt": function.created_s,
    }
    if function.model is not None:
        return shown | {"model": function.model}
    shown |= {
        "inferenceUrl": function.inference_path,
        "healthUri": function.health_path,
        "timeoutSeconds": function.timeout_s,
        "maxResponseBytes": function.max_response_bytes,
        "priceMicroUsdPerInvocation": function.price_micro_usd,
    }
    return shown if function.tenant_id is None else shown | {"url": function.url}
