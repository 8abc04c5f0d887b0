"""A batch's input file, read and checked line by line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_MAX_ERRORS = 100


@dataclass(frozen=True)
class BatchLine:
    """One request of a batch; `number` counts from 1 as OpenAI's error objects do."""

    number: int
    custom_id: str
    body: dict[str, Any]


class _Bad(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def read_batch_input(
    content: bytes | bytearray, endpoint: str, max_lines: int
) -> tuple[list[BatchLine], list[dict[str, Any]]]:
    """The lines, and OpenAI's error objects for those that are none; any error fails the batch."""
    texts: Sequence[bytes | bytearray] = content.splitlines()
    raw = [(n, text) for n, text in enumerate(texts, 1) if text.strip()]
    if not raw:
        return [], [_error(_Bad("empty_file", "The input file holds no request."), None)]
    if len(raw) > max_lines:
        problem = f"The input file holds {len(raw)} requests; at most {max_lines} are allowed."
        return [], [_error(_Bad("too_many_requests", problem), None)]
    lines: list[BatchLine] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, text in raw:
        try:
            line = _line(number, text, endpoint)
            if line.custom_id in seen:
                raise _Bad(
                    "duplicate_custom_id",
                    f"The custom_id {line.custom_id!r} is taken.",
                    "custom_id",
                )
            seen.add(line.custom_id)
            lines.append(line)
        except _Bad as bad:
            errors.append(_error(bad, number))
            if len(errors) >= _MAX_ERRORS:
                break
    return lines, errors


def _line(number: int, text: bytes | bytearray, endpoint: str) -> BatchLine:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise _Bad("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(values, dict):
        raise _Bad("invalid_json_line", "This line is no JSON object.")
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 256:
        raise _Bad("invalid_custom_id", "custom_id must be a text of 1 to 256.", "custom_id")
    if values.get("method") != "POST":
        raise _Bad("invalid_method", "method must be POST.", "method")
    if values.get("url") != endpoint:
        raise _Bad("mismatched_url", f"url must be the batch's endpoint {endpoint}.", "url")
    if not isinstance(values.get("body"), dict):
        raise _Bad("invalid_body", "body must be a JSON object.", "body")
    return BatchLine(number, custom_id, values["body"])


def _error(bad: _Bad, number: int | None) -> dict[str, Any]:
    return {"code": bad.code, "message": bad.message, "param": bad.param, "line": number}
