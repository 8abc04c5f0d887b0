"""The one seam between our errors and gRPC's.

Outwards, an `AiranError` becomes a status code with a readable text and, as `google.rpc.Status`
in the trailing metadata, an `ErrorInfo` (its kind as reason, domain `airan`, its remedy), with
`BadRequest` where an argument is wrong, `PreconditionFailure` where something is in use and
`RetryInfo` where the same call may succeed later. Inwards the same error is built again; a status
that is not ours (a dead server, a deadline) becomes the nearest of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from airan.core import errors

METADATA_KEY = "grpc-status-details-bin"
DOMAIN = "airan"
RETRY_MS = 500
"""How long a caller should wait before it tries again: the control plane's interval."""

_CODE_OF: dict[type[errors.AiranError], grpc.StatusCode] = {
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.StaleGenerationError: grpc.StatusCode.ABORTED,
    errors.ModelFileError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PortInUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AuthError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotLeaderError: grpc.StatusCode.UNAVAILABLE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InUseError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermanentError: grpc.StatusCode.INTERNAL,
    errors.RetryableError: grpc.StatusCode.UNAVAILABLE,
    errors.AiranError: grpc.StatusCode.INTERNAL,
}
# E.g. INVALID_INPUT.
_REASON_OF = {
    kind: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Error")).upper()
    for kind in _CODE_OF
}
_KIND_OF_REASON = {reason: kind for kind, reason in _REASON_OF.items()}

# Statuses made by gRPC itself. A peer that dies shows as any of the last group.
_FOREIGN: dict[grpc.StatusCode, type[errors.AiranError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.PermanentError,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRangeError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.PermanentError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PermanentError,
    grpc.StatusCode.UNIMPLEMENTED: errors.PermanentError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthError,
    grpc.StatusCode.PERMISSION_DENIED: errors.ForbiddenError,
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
    code, text = _CODE_OF[kind], str(error)
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in _details(error, kind):
        status.details.add().Pack(detail)
    return code, text, ((METADATA_KEY, status.SerializeToString()),)


def _details(error: errors.AiranError, kind: type[errors.AiranError]) -> Iterator[Message]:
    known = {} if error.remedy is None else {"remedy": error.remedy}
    yield details.ErrorInfo(reason=_REASON_OF[kind], domain=DOMAIN, metadata=known)
    if isinstance(error, errors.InvalidInputError):
        problem = error.message.removeprefix(f"{error.field}: ")
        violation = details.BadRequest.FieldViolation(field=error.field, description=problem)
        yield details.BadRequest(field_violations=[violation])
    if isinstance(error, errors.InUseError):
        broken = details.PreconditionFailure.Violation(
            type="IN_USE", subject="partition", description=error.message
        )
        yield details.PreconditionFailure(violations=[broken])
    if isinstance(error, errors.RetryableError):
        yield details.RetryInfo(retry_delay=Duration(nanos=RETRY_MS * 1_000_000))


def from_rpc(error: grpc.aio.AioRpcError, what: str) -> errors.AiranError:
    """Our error for a failed call; `what` names the peer for errors gRPC made itself."""
    ours = _from_metadata(error.trailing_metadata() or ())
    if ours is not None:
        return ours
    kind = _FOREIGN.get(error.code(), errors.UnavailableError)
    text = (error.details() or error.code().name).strip()
    return kind(
        f"{what}: {error.code().name.lower().replace('_', ' ')}: {text}",
        remedy="check that the site is running (`airan status`)"
        if kind is errors.UnavailableError
        else None,
    )


def _from_metadata(metadata: Iterable[Any]) -> errors.AiranError | None:
    for key, value in metadata:
        if key != METADATA_KEY:
            continue
        status = status_pb2.Status.FromString(value)
        info, bad = details.ErrorInfo(), details.BadRequest()
        for detail in status.details:
            # Unpack leaves a message alone that the detail is not.
            _ = detail.Unpack(info) or detail.Unpack(bad)
        if info.domain != DOMAIN:
            return None
        kind = _KIND_OF_REASON.get(info.reason, errors.PermanentError)
        remedy = info.metadata.get("remedy")
        if kind is errors.InvalidInputError and bad.field_violations:
            violation = bad.field_violations[0]
            return errors.InvalidInputError(violation.field, violation.description, remedy=remedy)
        message = status.message if remedy is None else status.message.removesuffix(f" ({remedy})")
        return kind(message, remedy=remedy)
    return None
