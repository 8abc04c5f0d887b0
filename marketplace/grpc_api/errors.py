"""Errors of the gateway as gRPC's: the same codes and texts as over HTTP."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from airan.core.errors import AiranError
from marketplace.gateway.errors import ApiError, from_airan

_METADATA_KEY = "grpc-status-details-bin"
_DOMAIN = "airan"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
}


def status_of(
    error: ApiError | AiranError,
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]:
    """Code, text and trailing metadata: an ErrorInfo with the code that HTTP has in its body, a
    BadRequest where a parameter is wrong, a RetryInfo where HTTP has Retry-After."""
    shown = error if isinstance(error, ApiError) else from_airan(error)
    code = _CODES.get(shown.status, grpc.StatusCode.INTERNAL)
    if shown.code == "cancelled":
        code = grpc.StatusCode.CANCELLED
    status = status_pb2.Status(code=code.value[0], message=shown.message)
    reason = str(shown.body()["error"]["code"] or "error").upper()
    status.details.add().Pack(details.ErrorInfo(reason=reason, domain=_DOMAIN))
    if shown.param is not None:
        violation = details.BadRequest.FieldViolation(
            field=shown.param, description=shown.message.removeprefix(f"{shown.param}: ")
        )
        status.details.add().Pack(details.BadRequest(field_violations=[violation]))
    wait = (shown.headers or {}).get("Retry-After", "")
    if wait.isdecimal():
        status.details.add().Pack(details.RetryInfo(retry_delay=Duration(seconds=int(wait))))
    return code, shown.message, ((_METADATA_KEY, status.SerializeToString()),)
