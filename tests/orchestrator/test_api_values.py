"""Values, messages and errors of the gRPC control plane: each comes back as it went."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from airan.core import errors
from airan.core.errors import (
    AiranError,
    CapacityError,
    InvalidInputError,
    NotFoundError,
)
from orchestrator import views
from orchestrator.api import control_pb2
from orchestrator.api.convert import from_message, to_message
from orchestrator.api.errors import _CODE_OF, _FOREIGN, from_rpc, status_of
from orchestrator.views import LeaseEvent


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (views.SiteStatus, "SiteStatus"),
        (views.GpuView, "Gpu"),
        (views.PartitionView, "Partition"),
        (views.PolicyView, "Policy"),
        (views.PlanView, "Plan"),
        (views.PolicyChange, "SetPolicyResponse"),
        (views.DemandView, "Demand"),
        (views.CellView, "Cell"),
        (views.SlotReport, "SlotReport"),
        (views.SlotStats, "SlotStats"),
        (views.Utilisation, "Utilisation"),
        (views.Lease, "Lease"),
        (views.LeaseEvent, "LeaseEvent"),
        (views.Event, "Event"),
        (views.NodeView, "Node"),
        (views.AuditEntry, "AuditEntry"),
        (views.ExpectedLoss, "ExpectedLoss"),
    ],
)
def test_views_and_messages_have_the_same_fields(kind: type[Any], message: str) -> None:
    descriptor = control_pb2.DESCRIPTOR.message_types_by_name[message]
    assert {field.name for field in dataclasses.fields(kind)} == {
        field.name for field in descriptor.fields
    }


@pytest.mark.parametrize(
    "event",
    [
        LeaseEvent("offered", None, 0.0, 2),
        LeaseEvent("revoked", views.Lease(id="a", sm_count=64, pid=7), 12.5, 0, 2**52),
    ],
)
def test_values_come_back_from_messages_as_they_were(event: LeaseEvent) -> None:
    message = to_message(event, control_pb2.LeaseEvent)
    again = control_pb2.LeaseEvent.FromString(message.SerializeToString())
    assert from_message(LeaseEvent, again) == event


def all_errors(kind: type[AiranError] = AiranError) -> list[type[AiranError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in all_errors(below))]


@pytest.mark.parametrize("kind", [k for k in all_errors() if k.__module__ == errors.__name__])
def test_every_error_has_a_status_and_comes_back_as_itself(kind: type[AiranError]) -> None:
    assert kind in _CODE_OF, "map the new error in orchestrator/api/errors.py"
    if kind is InvalidInputError:
        error: AiranError = InvalidInputError("policy.kind", "unknown", remedy="use `static` – ö")
    else:
        error = kind("it broke", remedy="mend it – ö")
    code, text, metadata = status_of(error)
    assert error.message in text
    assert error.remedy is not None
    assert error.remedy in text
    rpc_error = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), text, None
    )
    again = from_rpc(rpc_error, "control plane")
    assert type(again) is kind
    assert (again.message, again.remedy) == (error.message, error.remedy)


def details_of(error: AiranError) -> list[Any]:
    """The standard details of an error's status."""
    code, text, metadata = status_of(error)
    status = status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
    assert (status.code, status.message) == (code.value[0], text)
    found = []
    for detail in status.details:
        message = getattr(error_details_pb2, detail.type_url.rsplit(".", 1)[1])()
        assert detail.Unpack(message)
        found.append(message)
    return found


def test_an_invalid_argument_is_named_in_the_standard_way() -> None:
    info, bad = details_of(InvalidInputError("policy.kind", "unknown", remedy="use `static`"))
    assert (info.reason, info.domain) == ("INVALID_INPUT", "airan")
    assert dict(info.metadata) == {"remedy": "use `static`"}
    (violation,) = bad.field_violations
    assert (violation.field, violation.description) == ("policy.kind", "unknown")


def test_what_may_succeed_later_says_when_to_try_again() -> None:
    info, retry = details_of(CapacityError("nothing is free"))
    assert info.reason == "CAPACITY"
    assert retry.retry_delay.ToMilliseconds() > 0
    _, in_use, retry = details_of(errors.InUseError("process 7 uses it"))
    assert in_use.violations[0].type == "IN_USE"
    assert retry.retry_delay.ToMilliseconds() > 0
    assert len(details_of(NotFoundError("there is none"))) == 1


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_foreign_status_becomes_one_of_ours(code: grpc.StatusCode) -> None:
    assert code in _FOREIGN
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "oh no", None)
    ours = from_rpc(error, "control plane at nowhere")
    assert "control plane at nowhere" in ours.message
    assert "oh no" in ours.message
