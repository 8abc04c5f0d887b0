from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InvocationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVOCATION_STATE_UNSPECIFIED: _ClassVar[InvocationState]
    INVOCATION_STATE_QUEUED: _ClassVar[InvocationState]
    INVOCATION_STATE_RUNNING: _ClassVar[InvocationState]
    INVOCATION_STATE_COMPLETED: _ClassVar[InvocationState]
    INVOCATION_STATE_FAILED: _ClassVar[InvocationState]
    INVOCATION_STATE_CANCELLED: _ClassVar[InvocationState]
INVOCATION_STATE_UNSPECIFIED: InvocationState
INVOCATION_STATE_QUEUED: InvocationState
INVOCATION_STATE_RUNNING: InvocationState
INVOCATION_STATE_COMPLETED: InvocationState
INVOCATION_STATE_FAILED: InvocationState
INVOCATION_STATE_CANCELLED: InvocationState

class InvokeRequest(_message.Message):
    __slots__ = ("function_id", "function_version_id", "body", "wait_s")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    function_version_id: str
    body: bytes
    wait_s: float
    def __init__(self, function_id: _Optional[str] = ..., function_version_id: _Optional[str] = ..., body: _Optional[bytes] = ..., wait_s: _Optional[float] = ...) -> None: ...

class InvokeResponse(_message.Message):
    __slots__ = ("invocation",)
    INVOCATION_FIELD_NUMBER: _ClassVar[int]
    invocation: Invocation
    def __init__(self, invocation: _Optional[_Union[Invocation, _Mapping]] = ...) -> None: ...

class InvokeStreamRequest(_message.Message):
    __slots__ = ("function_id", "function_version_id", "body")
    FUNCTION_ID_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    function_id: str
    function_version_id: str
    body: bytes
    def __init__(self, function_id: _Optional[str] = ..., function_version_id: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class InvokeStreamResponse(_message.Message):
    __slots__ = ("accepted", "waiting", "text", "data", "finished")
    class Accepted(_message.Message):
        __slots__ = ("id",)
        ID_FIELD_NUMBER: _ClassVar[int]
        id: str
        def __init__(self, id: _Optional[str] = ...) -> None: ...
    class Waiting(_message.Message):
        __slots__ = ("position_in_queue",)
        POSITION_IN_QUEUE_FIELD_NUMBER: _ClassVar[int]
        position_in_queue: int
        def __init__(self, position_in_queue: _Optional[int] = ...) -> None: ...
    class Finished(_message.Message):
        __slots__ = ("finish_reason", "usage", "content_type")
        FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
        USAGE_FIELD_NUMBER: _ClassVar[int]
        CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
        finish_reason: str
        usage: Usage
        content_type: str
        def __init__(self, finish_reason: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., content_type: _Optional[str] = ...) -> None: ...
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    accepted: InvokeStreamResponse.Accepted
    waiting: InvokeStreamResponse.Waiting
    text: str
    data: bytes
    finished: InvokeStreamResponse.Finished
    def __init__(self, accepted: _Optional[_Union[InvokeStreamResponse.Accepted, _Mapping]] = ..., waiting: _Optional[_Union[InvokeStreamResponse.Waiting, _Mapping]] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ..., finished: _Optional[_Union[InvokeStreamResponse.Finished, _Mapping]] = ...) -> None: ...

class GetInvocationRequest(_message.Message):
    __slots__ = ("id", "wait_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    wait_s: float
    def __init__(self, id: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class GetInvocationResponse(_message.Message):
    __slots__ = ("invocation",)
    INVOCATION_FIELD_NUMBER: _ClassVar[int]
    invocation: Invocation
    def __init__(self, invocation: _Optional[_Union[Invocation, _Mapping]] = ...) -> None: ...

class CancelInvocationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelInvocationResponse(_message.Message):
    __slots__ = ("invocation",)
    INVOCATION_FIELD_NUMBER: _ClassVar[int]
    invocation: Invocation
    def __init__(self, invocation: _Optional[_Union[Invocation, _Mapping]] = ...) -> None: ...

class Invocation(_message.Message):
    __slots__ = ("id", "state", "position_in_queue", "created_s", "result", "failure", "usage")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_IN_QUEUE_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: InvocationState
    position_in_queue: int
    created_s: float
    result: Result
    failure: Failure
    usage: Usage
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[InvocationState, str]] = ..., position_in_queue: _Optional[int] = ..., created_s: _Optional[float] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("http_status", "content_type", "body")
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    http_status: int
    content_type: str
    body: bytes
    def __init__(self, http_status: _Optional[int] = ..., content_type: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "preemptions")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    preemptions: int
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., preemptions: _Optional[int] = ...) -> None: ...
