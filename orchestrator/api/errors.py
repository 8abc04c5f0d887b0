"""Our errors to gRPC status and back: the one seam between the two."""

from __future__ import annotations

import grpc

from airan.core.errors import (
    AiranError,
    AuthError,
    CapacityError,
    ConfigError,
    InUseError,
    InvalidInputError,
    ModelFileError,
    NotFoundError,
    PermanentError,
    PortInUseError,
    RetryableError,
    StaleGenerationError,
    UnavailableError,
)

REMEDY_KEY = "airan-remedy"
FIELD_KEY = "airan-field"

STATUS_OF: tuple[tuple[type[AiranError], grpc.StatusCode], ...] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (StaleGenerationError, grpc.StatusCode.FAILED_PRECONDITION),
    (ModelFileError, grpc.StatusCode.FAILED_PRECONDITION),
    (PortInUseError, grpc.StatusCode.FAILED_PRECONDITION),
    (AuthError, grpc.StatusCode.PERMISSION_DENIED),
    (CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (InUseError, grpc.StatusCode.ABORTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (PermanentError, grpc.StatusCode.FAILED_PRECONDITION),
    (RetryableError, grpc.StatusCode.UNAVAILABLE),
    (AiranError, grpc.StatusCode.UNKNOWN),
)


def status_of(error: AiranError) -> grpc.StatusCode:
    """The status code under which `error` travels."""
    return next(code for kind, code in STATUS_OF if isinstance(error, kind))


def metadata_of(error: AiranError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that carries what the status line cannot."""
    pairs = []
    if error.remedy:
        pairs.append((REMEDY_KEY, error.remedy))
    if isinstance(error, InvalidInputError):
        pairs.append((FIELD_KEY, error.field))
    return tuple((key, value.encode("ascii", "replace").decode()) for key, value in pairs)


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> AiranError:
    """The error of ours that a failed call stands for."""
    metadata = {key: str(value) for key, value in error.trailing_metadata() or ()}
    remedy = metadata.get(REMEDY_KEY)
    message = error.details() or str(error.code())
    code = error.code()
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        field = metadata.get(FIELD_KEY, "request")
        return InvalidInputError(field, message.removeprefix(f"{field}: "), remedy=remedy)
    kinds: dict[grpc.StatusCode, type[AiranError]] = {
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: CapacityError,
        grpc.StatusCode.ABORTED: InUseError,
        grpc.StatusCode.PERMISSION_DENIED: AuthError,
        grpc.StatusCode.UNAUTHENTICATED: AuthError,
        grpc.StatusCode.FAILED_PRECONDITION: PermanentError,
        grpc.StatusCode.UNIMPLEMENTED: PermanentError,
    }
    if code in kinds:
        return kinds[code](message, remedy=remedy)
    return UnavailableError(
        f"the control plane at {address} does not answer: {message}",
        remedy=remedy or "it may be restarting; see `airan status`",
    )
