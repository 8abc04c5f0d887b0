"""The functions a request offers the model, as checked, and the schema of a call of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from airan.core.errors import InvalidInputError
from marketplace.json_schema import check_schema

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_KEYS = {"type", "function"}
_FUNCTION_KEYS = {"name", "description", "parameters", "strict"}
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_MAX_DEPTH = 32
_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_PATTERN = re.compile(r"\^(?!.*\(\?).*\$")
_REF = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What the model may call. `choice`: `none`, `auto`, `required` or a function's name."""

    tools: tuple[dict[str, Any], ...]
    """As received, which is how templates and other servers want them."""
    choice: str
    named: bool
    """Whether `choice` is a function's name."""
    parallel: bool | None
    """Whether several calls are wanted in one answer; None: the request does not say."""
    answer_schema: dict[str, Any] | None = None
    """What `response_format` asks of an answer that is no call."""
    unheld: str | None = None
    """Why a forced call cannot be held to its schema by our own engines; None: it can."""

    @property
    def active(self) -> bool:
        """Whether an answer may be a call."""
        return self.named or self.choice != "none"

    @property
    def forced(self) -> bool:
        """Whether an answer has to be a call."""
        return self.named or self.choice == "required"

    @property
    def names(self) -> frozenset[str]:
        """The functions' names."""
        return frozenset(tool["function"]["name"] for tool in self.tools)

    def members(self) -> dict[str, Any]:
        """The members of a chat completion's body that say all this."""
        choice: Any = self.choice
        if self.named:
            choice = {"type": "function", "function": {"name": self.choice}}
        members = {"tools": list(self.tools), "tool_choice": choice}
        return (
            members if self.parallel is None else members | {"parallel_tool_calls": self.parallel}
        )

    def call_schema(self) -> dict[str, Any]:
        """What the text of a forced call has to satisfy: `name`, then `arguments`.

        Raises:
            InvalidInputError: a function's parameters cannot be held.
        """
        shared: dict[str, Any] = {}
        shapes = []
        for index, tool in enumerate(self.tools):
            name = tool["function"]["name"]
            if self.named and name != self.choice:
                continue
            where = f"tools.{index}.function.parameters"
            parameters = _held(tool["function"].get("parameters") or {}, where)
            parameters = {"type": "object", **parameters}
            parts = parameters.pop("definitions", {}) | parameters.pop("$defs", {})
            moves = _Moves(name, frozenset(parts), where)
            shared |= {f"{name}.{key}": moves.moved(part) for key, part in parts.items()}
            call = {"name": {"const": name}, "arguments": moves.moved(parameters)}
            shapes.append(
                {
                    "type": "object",
                    "properties": call,
                    "required": list(call),
                    "additionalProperties": False,
                }
            )
        schema = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
        return schema | {"$defs": shared} if shared else schema


def parse_tools(
    tools: Any, choice: Any, parallel: Any, answer_schema: dict[str, Any] | None
) -> ToolUse | None:
    """Checks `tools`, `tool_choice` and `parallel_tool_calls`; None where there are no tools.

    Raises:
        InvalidInputError: one of them is wrong; `field` names it.
    """
    if parallel is not None and not isinstance(parallel, bool):
        raise InvalidInputError("parallel_tool_calls", "must be true or false")
    if tools is None or tools == []:
        if choice not in (None, "none", "auto"):
            raise InvalidInputError("tool_choice", "is only allowed when tools are given")
        return None
    if not isinstance(tools, list):
        raise InvalidInputError("tools", "must be a list")
    if len(tools) > MAX_TOOLS:
        raise InvalidInputError("tools", f"has {len(tools)} functions, at most {MAX_TOOLS} are")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = _check_tool(tool, f"tools.{index}")
        if name in names:
            raise InvalidInputError(f"tools.{index}.function.name", f"{name!r} is there twice")
        names.add(name)
    chosen, named = _choice(choice, names)
    use = ToolUse(tuple(tools), chosen, named, parallel, answer_schema)
    if not use.forced:
        return use
    try:
        use.call_schema()
    except InvalidInputError as error:
        # Another server may well hold it: only our own engines refuse.
        return ToolUse(tuple(tools), chosen, named, parallel, answer_schema, str(error))
    return use


def _choice(choice: Any, names: set[str]) -> tuple[str, bool]:
    """The choice, and whether it is a function's name."""
    if choice is None:
        return "auto", False
    if isinstance(choice, str) and choice in ("none", "auto", "required"):
        return choice, False
    function = choice.get("function") if isinstance(choice, dict) else None
    if (
        not isinstance(choice, dict)
        or set(choice) != _TOOL_KEYS
        or choice["type"] != "function"
        or not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
    ):
        shape = '{"type": "function", "function": {"name": ...}}'
        raise InvalidInputError("tool_choice", f"must be none, auto, required or {shape}")
    if function["name"] not in names:
        raise InvalidInputError("tool_choice", f"there is no function {function['name'][:64]!r}")
    return function["name"], True


def _check_tool(tool: Any, where: str) -> str:
    """The function's name."""
    if not isinstance(tool, dict):
        raise InvalidInputError(where, "must be an object")
    if tool.get("type") != "function":
        raise InvalidInputError(f"{where}.type", "must be function: other tools are not there")
    _check_keys(tool, _TOOL_KEYS, where)
    function, where = tool.get("function"), f"{where}.function"
    if not isinstance(function, dict):
        raise InvalidInputError(where, "must be an object with the function's name")
    _check_keys(function, _FUNCTION_KEYS, where)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(f"{where}.name", "must be 1 to 64 of a-z, A-Z, 0-9, _ and -")
    if not isinstance(function.get("description"), str | None):
        raise InvalidInputError(f"{where}.description", "must be a text")
    if not isinstance(function.get("strict"), bool | None):
        raise InvalidInputError(f"{where}.strict", "must be true or false")
    parameters = function.get("parameters")
    if parameters is not None:
        _check_parameters(parameters, f"{where}.parameters")
    return name


def _check_keys(values: dict[str, Any], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise InvalidInputError(f"{where}.{key[:64]}", "is not a supported parameter")


def _check_parameters(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        raise InvalidInputError(where, "must be a JSON schema of an object")
    if schema.get("type", "object") != "object":
        raise InvalidInputError(where, "the schema's type must be object")
    _check_shape(schema, where, 0)


def _check_shape(schema: Any, where: str, depth: int) -> None:
    """Whether it is a JSON schema at all, by what every template and server relies on."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise InvalidInputError(where, "a schema must be an object")
    if depth > _MAX_DEPTH:
        raise InvalidInputError(where, f"the schema is more than {_MAX_DEPTH} levels deep")
    _check_words(schema, where)
    for key in _SCHEMAS:
        parts = schema.get(key, {})
        if not isinstance(parts, dict):
            raise InvalidInputError(where, f"{key} of the schema must be an object")
        for part in parts.values():
            _check_shape(part, where, depth + 1)
    for key in _LISTS:
        parts = schema.get(key, [True])
        if not isinstance(parts, list) or not parts:
            raise InvalidInputError(where, f"{key} of the schema must be a list of schemas")
        for part in parts:
            _check_shape(part, where, depth + 1)
    for key in _ONES:
        _check_shape(schema.get(key, True), where, depth + 1)


def _check_words(schema: dict[str, Any], where: str) -> None:
    kinds = schema.get("type", "object")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not kinds or not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
        raise InvalidInputError(where, f"the schema has an unknown type {str(kinds)[:60]}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise InvalidInputError(where, "required of the schema must be a list of names")
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        raise InvalidInputError(where, "enum of the schema must be a list of values")
    if not isinstance(schema.get("$ref", ""), str):
        raise InvalidInputError(where, "$ref of the schema must be a text")


def _held(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The same as an answer can be held to."""
    try:
        return check_schema(schema)
    except InvalidInputError as error:
        problem = str(error).removeprefix(f"{error.field}: ")
        raise InvalidInputError(where, problem) from error


@dataclass(frozen=True)
class _Moves:
    """References of one function's schema, to where its definitions stand in the whole."""

    name: str
    known: frozenset[str]
    where: str

    def moved(self, schema: Any) -> Any:
        """The schema with them, of which check_schema has taken what it does not know."""
        if not isinstance(schema, dict):
            return schema
        return {key: self._value(key, value) for key, value in schema.items()}

    def _value(self, key: str, value: Any) -> Any:
        if key == "$ref":
            found = _REF.fullmatch(str(value))
            if found is None or found[1] not in self.known:
                problem = f"$ref {str(value)[:64]!r} is none to the schema's own $defs"
                raise InvalidInputError(self.where, problem)
            return f"#/$defs/{self.name}.{found[1]}"
        if key == "pattern" and not _PATTERN.fullmatch(str(value)):
            problem = f"the pattern {str(value)[:64]!r} is none that stands between ^ and $"
            raise InvalidInputError(self.where, problem)
        if key == "properties":
            return {name: self.moved(part) for name, part in value.items()}
        if key in ("anyOf", "prefixItems"):
            return [self.moved(part) for part in value]
        return self.moved(value) if key in ("items", "additionalProperties") else value


def size_of(use: ToolUse | None) -> int:
    """Bytes of the functions as JSON: what they add to a prompt, at most, in tokens."""
    return 0 if use is None or not use.active else len(json.dumps(use.tools))
