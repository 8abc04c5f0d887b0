"""Pages of lists: opaque tokens that say where the next page starts."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from airan.core.errors import InvalidInputError

T = TypeVar("T")

DEFAULT_SIZE = 200
MAX_SIZE = 1000
_MAX_SEQ = 2**63


def page(
    request: Any,
    kind: type,
    read: Callable[[Any, int], Sequence[T]],
    cursor_of: Callable[[T], Any],
) -> tuple[Sequence[T], str]:
    """One page and the token of the next (empty: this is the last).

    `read(cursor, limit)` gives what comes after the cursor (None: from the start); `cursor_of`
    is where an item stands: an int, a str, or a list of a float and a str, as `kind` says. A
    token serves only the kind of request it was given for.

    Raises:
        InvalidInputError: the request's token is not one of ours.
    """
    size = min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
    call = request.DESCRIPTOR.name
    cursor = _read_token(request.page_token, call, kind) if request.page_token else None
    items = read(cursor, size + 1)
    if len(items) <= size:
        return items, ""
    return items[:size], _write_token(call, cursor_of(items[size - 1]))


def _write_token(call: str, cursor: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps([call, cursor]).encode()).decode()


def _read_token(token: str, call: str, kind: type) -> Any:
    try:
        found = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        found = None
    if isinstance(found, list) and len(found) == 2 and found[0] == call and _is(found[1], kind):
        return found[1]
    raise InvalidInputError(
        "page_token", "is not one of this list's", remedy="give next_page_token as it was answered"
    )


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, list):
        return kind is list and [type(one) for one in value] == [float, str]
    if type(value) is int:
        return kind is int and 0 <= value < _MAX_SEQ
    return kind is str and isinstance(value, str)
