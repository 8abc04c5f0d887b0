"""Every error of the HTTP interface in OpenAI's error object."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from airan.core.errors import (
    AiranError,
    AuthError,
    CapacityError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from marketplace.adapters.adapter import Adapter
from marketplace.billing.limits import LimitError
from marketplace.dispatch import ContextLengthError
from marketplace.store.ledger import Outcome

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
_OUTCOME_STATUS = {
    "engine_unavailable": 503,
    "internal_error": 500,
    "context_length_exceeded": 400,
    "invalid_request": 400,
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else _TYPES.get(self.status, default)
        error = {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code or _CODES.get(self.status),
        }
        return {"error": error}

    def response(self) -> Response:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def invalid_api_key() -> ApiError:
    """No key, or none that is valid."""
    return ApiError(
        401,
        "No valid API key: send one in the header `Authorization: Bearer <key>`; "
        "`airan key create` makes one.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def not_allowed(what: str) -> ApiError:
    """The key or login is valid, but not for this."""
    return ApiError(403, f"This key or login may not {what}.", code="permission_denied")


def model_not_found(name: str, offered: list[str]) -> ApiError:
    """The site does not serve that model."""
    return ApiError(
        404,
        f"The model {name!r} does not exist here; this site serves: {', '.join(offered)}.",
        code="model_not_found",
        param="model",
    )


def not_ready(adapter: Adapter) -> ApiError:
    """The tenant's adapter is there, and cannot be used now."""
    if adapter.state == "failed":
        text = f"The adapter {adapter.model!r} cannot be used: {adapter.reason}."
        return ApiError(409, text, code="adapter_failed", param="model")
    text = f"The adapter {adapter.model!r} is not ready: its file is not there yet."
    return ApiError(409, text, code="adapter_not_ready", param="model")


def from_airan(error: AiranError) -> ApiError:
    """One of our errors as an answer."""
    text = str(error)
    if isinstance(error, ContextLengthError):
        return ApiError(400, text, code="context_length_exceeded", param=error.field)
    if isinstance(error, InvalidInputError):
        return ApiError(400, text, code="invalid_value", param=error.field)
    if isinstance(error, NotFoundError):
        return ApiError(404, text, code="not_found")
    if isinstance(error, ForbiddenError):
        return ApiError(403, text, code="permission_denied")
    if isinstance(error, AuthError):
        return ApiError(401, text, code="invalid_token", headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, LimitError):
        return ApiError(429, text, code=error.code, headers=error.headers())
    if isinstance(error, CapacityError):
        return ApiError(429, text, code="queue_full", headers={"Retry-After": "5"})
    if isinstance(error, UnavailableError):
        return ApiError(503, text, code="engine_unavailable", headers={"Retry-After": "2"})
    return ApiError(500, text, code="internal_error")


def from_outcome(outcome: Outcome) -> ApiError:
    """A job that did not complete, as an answer."""
    if outcome.state == "cancelled":
        return ApiError(409, "The request was cancelled.", code="cancelled")
    code = outcome.error_code or "internal_error"
    message = outcome.error_message or "The request failed."
    return ApiError(_OUTCOME_STATUS.get(code, 500), message, code=code)


async def answer_api_error(_: Request, error: Exception) -> Response:
    """Handler for ApiError."""
    assert isinstance(error, ApiError)
    return error.response()


async def answer_airan_error(_: Request, error: Exception) -> Response:
    """Handler for AiranError."""
    assert isinstance(error, AiranError)
    return from_airan(error).response()


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Handler for the router's own 404 and 405."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    messages = {404: f"Unknown address: {what}.", 405: f"Not allowed: {what}."}
    message = messages.get(error.status_code, str(error.detail))
    headers = dict(error.headers) if error.headers else None
    return ApiError(error.status_code, message, headers=headers).response()


async def answer_validation_error(_: Request, error: Exception) -> Response:
    """Handler for FastAPI's 422, which becomes a 400 that names the parameter."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return ApiError(400, f"{param}: {first['msg']}", code="invalid_value", param=param).response()
