"""Turns the protocol's messages into plain values and back; fields go by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def from_message(kind: type[T], message: Message) -> T:
    """The dataclass `kind` with the message's values; an absent optional part becomes None."""
    values: dict[str, Any] = {}
    for name, hint in _fields(kind):
        value = getattr(message, name)
        if typing.get_origin(hint) is types.UnionType:
            part = typing.get_args(hint)[0]
            nested = dataclasses.is_dataclass(part)
            there = from_message(part, value) if nested else value
            values[name] = there if message.HasField(name) else None
        elif typing.get_origin(hint) is tuple:
            item = typing.get_args(hint)[0]
            nested = dataclasses.is_dataclass(item)
            values[name] = tuple(from_message(item, one) if nested else one for one in value)
        elif dataclasses.is_dataclass(hint):
            values[name] = from_message(typing.cast(type[Any], hint), value)
        else:
            values[name] = value
    return kind(**values)


def to_message(value: Any, kind: type[M]) -> M:
    """The message `kind` with the dataclass's values; None leaves a part absent."""
    message = kind()
    _fill(value, message)
    return message


def _fill(value: Any, message: Message) -> None:
    for name, _ in _fields(type(value)):
        part = getattr(value, name)
        if part is None:
            continue
        if isinstance(part, tuple):
            target = getattr(message, name)
            for item in part:
                if dataclasses.is_dataclass(item):
                    _fill(item, target.add())
                else:
                    target.append(item)
        elif dataclasses.is_dataclass(part):
            target = getattr(message, name)
            target.SetInParent()
            _fill(part, target)
        else:
            setattr(message, name, part)


_FIELDS: dict[Any, tuple[tuple[str, Any], ...]] = {}


def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    if kind not in _FIELDS:
        hints = typing.get_type_hints(kind)
        _FIELDS[kind] = tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))
    return _FIELDS[kind]
