"""Which JSON schemas an answer can be held to."""

from __future__ import annotations

from typing import Any

from airan.core.errors import InvalidInputError

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_LABELS = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}
_PLAIN = {
    "type",
    "enum",
    "const",
    "required",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "format",
    "$ref",
}
_MAX_DEPTH = 16
_FIELD = "response_format"


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what it says to people only.

    An engine that cannot compile a schema answers as if there were none, so whatever is not known
    to be held is refused here.

    Raises:
        InvalidInputError: it uses a keyword or a type that is not supported, or is too deep.
    """
    return _checked(schema, 0)


def _checked(schema: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise InvalidInputError(_FIELD, "a JSON schema must be an object here")
    if depth > _MAX_DEPTH:
        raise InvalidInputError(_FIELD, f"the schema is more than {_MAX_DEPTH} levels deep")
    return {
        key: _value(key, value, depth + 1) for key, value in schema.items() if key not in _LABELS
    }


def _value(key: str, value: Any, depth: int) -> Any:
    if key == "type":
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
            raise InvalidInputError(_FIELD, f"the schema has an unknown type {value!r}")
    elif key in ("properties", "$defs", "definitions"):
        if not isinstance(value, dict):
            raise InvalidInputError(_FIELD, f"{key} of the schema must be an object")
        return {name: _checked(part, depth) for name, part in value.items()}
    elif key in ("anyOf", "prefixItems"):
        if not isinstance(value, list) or not value:
            raise InvalidInputError(_FIELD, f"{key} of the schema must be a list")
        return [_checked(part, depth) for part in value]
    elif key in ("items", "additionalProperties"):
        return value if isinstance(value, bool) else _checked(value, depth)
    elif key not in _PLAIN:
        raise InvalidInputError(_FIELD, f"the schema's keyword {key!r} is not supported here")
    return value
