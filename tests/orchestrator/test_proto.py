"""The generated gRPC code is what the .proto files lead to, and compatible with the baseline."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from orchestrator.api import control_pb2

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "orchestrator" / "api" / "baseline.binpb"


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed"
)
def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_proto", ROOT / "scripts" / "generate_proto.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.generate(tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*")}
    assert len(made) == 6
    for name in made:
        assert (ROOT / name).read_text() == (tmp_path / name).read_text(), "run `make proto`"


def baseline() -> FileDescriptorProto:
    (file,) = FileDescriptorSet.FromString(BASELINE.read_bytes()).file
    return file


def current() -> FileDescriptorProto:
    file = FileDescriptorProto()
    control_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def breaks(old: FileDescriptorProto, new: FileDescriptorProto) -> list[str]:
    """What a client or server of `old` would stumble over in `new`."""
    found = [] if old.package == new.package else [f"package {old.package} is gone"]
    messages = {message.name: message for message in new.message_type}
    for message in old.message_type:
        if message.name not in messages:
            found.append(f"message {message.name} is gone")
        else:
            found += field_breaks(message, messages[message.name])
    methods = {name: wire_of(method) for name, method in methods_of(new)}
    for name, method in methods_of(old):
        if methods.get(name) != wire_of(method):
            found.append(f"method {name} is gone or takes or gives another type")
    return found


def field_breaks(old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    fields = {field.number: field for field in new.field}
    for field in old.field:
        now = fields.get(field.number)
        if now is None or now.name != field.name:
            yield f"{old.name}.{field.name} = {field.number} is removed, renamed or renumbered"
        elif type_of(now) != type_of(field):
            yield f"{old.name}.{field.name} has another type"


def type_of(field: FieldDescriptorProto) -> tuple[Any, ...]:
    return field.type, field.type_name, field.label, field.proto3_optional


def methods_of(file: FileDescriptorProto) -> Iterator[tuple[str, Any]]:
    for service in file.service:
        for method in service.method:
            yield f"{service.name}.{method.name}", method


def wire_of(method: Any) -> tuple[Any, ...]:
    streams = method.client_streaming, method.server_streaming
    return method.input_type, method.output_type, *streams


def test_the_protocol_breaks_no_earlier_client_or_server() -> None:
    assert breaks(baseline(), current()) == []


def message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(one for one in file.message_type if one.name == name)


def remove_field(file: FileDescriptorProto) -> None:
    del message(file, "Lease").field[0]


def renumber_field(file: FileDescriptorProto) -> None:
    message(file, "Lease").field[0].number = 99


def retype_field(file: FileDescriptorProto) -> None:
    message(file, "Plan").field[0].type = FieldDescriptorProto.TYPE_STRING


def remove_message(file: FileDescriptorProto) -> None:
    del file.message_type[0]


def remove_method(file: FileDescriptorProto) -> None:
    del file.service[0].method[0]


def unstream_method(file: FileDescriptorProto) -> None:
    watch = next(one for one in file.service[0].method if one.name == "WatchEvents")
    watch.server_streaming = False


@pytest.mark.parametrize(
    "change",
    [remove_field, renumber_field, retype_field, remove_message, remove_method, unstream_method],
)
def test_every_breaking_change_is_noticed(change: Any) -> None:
    broken = current()
    change(broken)
    assert breaks(baseline(), broken) != []


def test_additions_break_nothing() -> None:
    grown = current()
    grown.message_type.add(name="New")
    message(grown, "Lease").field.add(
        name="colour",
        number=99,
        type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )
    assert breaks(baseline(), grown) == []
