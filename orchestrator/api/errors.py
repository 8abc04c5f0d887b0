"""The one seam between our errors and gRPC's.

Outwards, an `AiranError` becomes a status code with a readable text, and its kind, message and
remedy travel as JSON in the trailing metadata `airan-error-bin`. Inwards the same error is built
again; a status that is not ours (a dead server, a deadline) becomes the nearest of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import grpc

from airan.core import errors

METADATA_KEY = "airan-error-bin"

_CODE_OF: dict[type[errors.AiranError], grpc.StatusCode] = {
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.StaleGenerationError: grpc.StatusCode.ABORTED,
    errors.ModelFileError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PortInUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AuthError: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotLeaderError: grpc.StatusCode.UNAVAILABLE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermanentError: grpc.StatusCode.INTERNAL,
    errors.RetryableError: grpc.StatusCode.UNAVAILABLE,
    errors.AiranError: grpc.StatusCode.INTERNAL,
}
_KIND_OF_NAME = {kind.__name__: kind for kind in _CODE_OF}

# Statuses made by gRPC itself. A peer that dies shows as any of the last group.
_FOREIGN: dict[grpc.StatusCode, type[errors.AiranError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.PermanentError,
    grpc.StatusCode.OUT_OF_RANGE: errors.PermanentError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.PermanentError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PermanentError,
    grpc.StatusCode.UNIMPLEMENTED: errors.PermanentError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AuthError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.CapacityError,
    grpc.StatusCode.ABORTED: errors.UnavailableError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.UnavailableError,
    grpc.StatusCode.CANCELLED: errors.UnavailableError,
    grpc.StatusCode.INTERNAL: errors.UnavailableError,
    grpc.StatusCode.UNKNOWN: errors.UnavailableError,
    grpc.StatusCode.DATA_LOSS: errors.UnavailableError,
}


def status_of(error: errors.AiranError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]:
    """Code, readable text and trailing metadata for one of our errors."""
    kind = next(kind for kind in type(error).__mro__ if kind in _CODE_OF)
    body = {"kind": kind.__name__, "message": error.message, "remedy": error.remedy}
    if isinstance(error, errors.InvalidInputError):
        body["field"] = error.field
    return _CODE_OF[kind], str(error), ((METADATA_KEY, json.dumps(body).encode()),)


def from_rpc(error: grpc.aio.AioRpcError, what: str) -> errors.AiranError:
    """Our error for a failed call; `what` names the peer for errors gRPC made itself."""
    ours = _from_metadata(error.trailing_metadata() or ())
    if ours is not None:
        return ours
    kind = _FOREIGN.get(error.code(), errors.UnavailableError)
    details = (error.details() or error.code().name).strip()
    return kind(
        f"{what}: {error.code().name.lower().replace('_', ' ')}: {details}",
        remedy="check that the site is running (`airan status`)"
        if kind is errors.UnavailableError
        else None,
    )


def _from_metadata(metadata: Iterable[Any]) -> errors.AiranError | None:
    for key, value in metadata:
        if key != METADATA_KEY:
            continue
        body = json.loads(value)
        kind = _KIND_OF_NAME.get(body["kind"], errors.PermanentError)
        if kind is errors.InvalidInputError:
            name = body.get("field", "")
            problem = body["message"].removeprefix(f"{name}: ")
            return errors.InvalidInputError(name, problem, remedy=body["remedy"])
        return kind(body["message"], remedy=body["remedy"])
    return None
