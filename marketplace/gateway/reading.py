"""Reading requests: their key, and their bodies within limits."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from marketplace.gateway.errors import ApiError


def bearer_key(request: Request) -> str:
    """The key in the Authorization header, or an empty string."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def read_json(request: Request, limit_bytes: int) -> Any:
    """The request's body, decoded.

    Raises:
        ApiError: 400 if it is no JSON, 413 if it is longer than `limit_bytes`, 415 if it says
            that it is something else.
    """
    return parse_json(await read_json_bytes(request, limit_bytes))


async def read_json_bytes(request: Request, limit_bytes: int) -> bytes:
    """The request's body, which says that it is JSON.

    Raises:
        ApiError: 413 if it is longer than `limit_bytes`, 415 if it says that it is something else.
    """
    declared_type = request.headers.get("content-type", "application/json")
    if "json" not in declared_type.lower():
        raise ApiError(415, f"The body must be application/json, not {declared_type[:100]}.")
    return await read_bytes(request, limit_bytes)


def parse_json(body: bytes) -> Any:
    """What the JSON says.

    Raises:
        ApiError: 400 if it is none.
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is no JSON: {error}", code="invalid_json") from error


async def read_bytes(request: Request, limit_bytes: int) -> bytes:
    """The request's body.

    Raises:
        ApiError: 413 if it is longer than `limit_bytes`, 400 if it ends too early.
    """
    return bytes(await read_buffer(request, limit_bytes))


async def read_buffer(request: Request, limit_bytes: int) -> bytearray:
    """The same without a copy, for a large one.

    Raises:
        ApiError: 413 if it is longer than `limit_bytes`, 400 if it ends too early.
    """
    too_large = ApiError(413, f"The body is longer than {limit_bytes} bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise too_large
    except ClientDisconnect as error:
        raise ApiError(400, "The connection ended within the body.") from error
    return body


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
