"""The chat-completion request as checked, and its answer in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from airan.core.errors import InvalidInputError
from marketplace.engines.base import Message, SamplingParams, TokenLogprob
from marketplace.json_schema import check_schema
from marketplace.tool_calls import read_answer
from marketplace.tools import MAX_TOOLS, ToolUse, parse_tools

MAX_STOPS = 4
MAX_MESSAGES = 1024
MAX_TOP_LOGPROBS = 20

ServiceTier = Literal["priority", "default", "flex"]

# Parameters of OpenAI's schema whose named values change nothing here; any other value is refused.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logit_bias": (None, {}),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "store": (None, False),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
# Hints and labels: they may have any value.
_IGNORED = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _Function(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    arguments: str


class _Call(_Strict):
    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: _Function


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[_Call], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None


class _StreamOptions(_Strict):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class _TextFormat(_Strict):
    type: Literal["text", "json_object"]


class _JsonSchema(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: StrictBool | None = None


class _SchemaFormat(_Strict):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


_Format = Annotated[_TextFormat | _SchemaFormat, Field(discriminator="type")]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Body(_Strict):
    model: str
    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[_Number, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[_Number, Field(gt=0.0, le=1.0)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: Annotated[_Number, Field(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[_Number, Field(ge=-2.0, le=2.0)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: _Format | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. `max_tokens` None: whatever the context has room for."""

    model: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    stops: tuple[str, ...]
    temperature: float
    top_p: float
    seed: int | None
    presence_penalty: float
    frequency_penalty: float
    body: str
    """The request as received, as JSON; what a durable job is stored as."""
    prompt: str | None = None
    """Raw text to be continued, instead of messages."""
    prompt_token_ids: tuple[int, ...] = ()
    """The same as tokens."""
    service_tier: ServiceTier = "default"
    n_logprobs: int | None = None
    response_schema: dict[str, Any] | None = None
    """JSON schema of the answer. Such an answer is delivered whole, at its end."""
    tools: ToolUse | None = None
    """Functions that the model may call; with a forced call `response_schema` is the call's."""

    @property
    def knows_calls(self) -> bool:
        """Whether the prompt has function calls in it, or the functions themselves."""
        offered = self.tools is not None and self.tools.active
        return offered or any("tool_calls" in message for message in self.messages)

    def sampling(self, max_tokens: int, resumptions: int) -> SamplingParams:
        """The engine's parameters. A resumed sampled answer goes on with another seed: the state
        of the first generator is gone, and repeating its numbers would repeat its choices."""
        seed = self.seed
        if seed is not None and resumptions and self.temperature > 0:
            seed += resumptions
        return SamplingParams(
            max_tokens,
            self.temperature,
            self.top_p,
            seed,
            self.presence_penalty,
            self.frequency_penalty,
            self.n_logprobs,
            self.response_schema,
        )


def parse_chat_request(values: Any) -> ChatRequest:
    """Checks the decoded JSON body of a chat completion.

    Raises:
        InvalidInputError: a parameter is missing, wrong, or not supported; `field` names it.
    """
    if not isinstance(values, dict):
        raise InvalidInputError("body", "must be a JSON object")
    check_encodable(values)
    known = without_harmless(values, _HARMLESS)
    try:
        body = _Body.model_validate(known)
    except ValidationError as error:
        raise explain(error) from error
    if body.stream_options is not None and not body.stream:
        raise InvalidInputError("stream_options", "is only allowed when stream is true")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInputError("top_logprobs", "is only allowed when logprobs is true")
    schema = _schema(body.response_format)
    tools = parse_tools(body.tools, body.tool_choice, body.parallel_tool_calls, schema)
    if tools is not None and tools.active and body.logprobs:
        raise InvalidInputError("logprobs", "are not reported where functions may be called")
    if tools is not None and tools.forced:
        schema = {"type": "object"} if tools.unheld else tools.call_schema()
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return ChatRequest(
        model=body.model,
        messages=plain_messages(body.messages),
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stops=tuple(stop),
        temperature=_default(body.temperature, 1.0),
        top_p=_default(body.top_p, 1.0),
        seed=body.seed,
        presence_penalty=_default(body.presence_penalty, 0.0),
        frequency_penalty=_default(body.frequency_penalty, 0.0),
        body=json.dumps(values),
        service_tier=tier_of(body.service_tier),
        n_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        response_schema=schema,
        tools=tools,
    )


def tools_of(stored: str | None) -> ToolUse | None:
    """The functions of a stored request, which was checked when it came."""
    values = json.loads(stored) if stored else {}
    if not values.get("tools"):
        return None
    choice, parallel = values.get("tool_choice"), values.get("parallel_tool_calls")
    return parse_tools(values["tools"], choice, parallel, None)


def tier_of(asked: str | None) -> ServiceTier:
    """The tier a request runs at; OpenAI's `auto` leaves the choice to us."""
    return asked if asked in ("priority", "flex") else "default"  # type: ignore[return-value]


def _schema(answer: _TextFormat | _SchemaFormat | None) -> dict[str, Any] | None:
    if isinstance(answer, _SchemaFormat):
        return check_schema(answer.json_schema.schema_ or {"type": "object"})
    return {"type": "object"} if answer is not None and answer.type == "json_object" else None


def without_harmless(
    values: dict[str, Any], harmless: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The parameters but those that change nothing here.

    Raises:
        InvalidInputError: one of them has a value that would change something.
    """
    known = {key: value for key, value in values.items() if key not in _IGNORED}
    for key, accepted in harmless.items():
        if key in known and not _is_one_of(value := known.pop(key), accepted):
            raise InvalidInputError(key, f"the value {_short(value)} is not supported here")
    return known


def completion(
    job_id: str,
    model: str,
    created_s: float,
    text: str,
    finish_reason: str,
    usage: dict[str, Any],
    tools: ToolUse | None = None,
) -> dict[str, Any]:
    """A whole answer in OpenAI's form; `tools`: which functions it may call."""
    answer = read_answer(text, tools, job_id)
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.calls:
        message["content"] = answer.content or None
        message["tool_calls"] = [call.to_dict() for call in answer.calls]
        finish_reason = "tool_calls" if finish_reason == "stop" else finish_reason
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": completion_id(job_id),
        "object": "chat.completion",
        "created": int(created_s),
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def logprobs_object(tokens: Sequence[TokenLogprob], n_top: int) -> dict[str, Any]:
    """A chat choice's `logprobs` in OpenAI's form."""

    def entry(token: TokenLogprob) -> dict[str, Any]:
        return {"token": token.text, "bytes": list(token.data), "logprob": token.logprob}

    content = [
        entry(token) | {"top_logprobs": [entry(other) for other in token.top[:n_top]]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_id(job_id: str) -> str:
    """The public id of a job's answer."""
    return "chatcmpl-" + job_id.replace("-", "")


def usage_object(input_tokens: int, output_tokens: int, preemptions: int) -> dict[str, Any]:
    """OpenAI's usage, with our field `airan`: how often the answer was paused and resumed."""
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "airan": {"preemptions": preemptions},
    }


def check_encodable(values: dict[str, Any]) -> None:
    """JSON can spell half a surrogate pair; no tokenizer and no database takes one."""
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (UnicodeEncodeError, ValueError) as error:
        raise InvalidInputError(
            "body", f"holds a value that is no valid JSON text: {error}"
        ) from error


def plain_messages(messages: Sequence[_Message]) -> tuple[Message, ...]:
    """The messages as templates want them.

    Raises:
        InvalidInputError: one has no content, or calls and their results do not fit together.
    """
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise InvalidInputError(f"{where}.content", "is required")
        if message.tool_calls is not None and message.role != "assistant":
            raise InvalidInputError(f"{where}.tool_calls", "belong to the assistant's messages")
        if message.tool_call_id is not None and message.role != "tool":
            raise InvalidInputError(f"{where}.tool_call_id", "belongs to messages of the role tool")
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                problem = f"answers no call of the messages before it: {message.tool_call_id!r:.80}"
                raise InvalidInputError(f"{where}.tool_call_id", problem)
            open_calls.remove(message.tool_call_id)
        elif open_calls:
            problem = f"there is no result of the call {min(open_calls)[:64]!r} before it"
            raise InvalidInputError(where, problem)
        for call in message.tool_calls or ():
            if call.id in open_calls:
                raise InvalidInputError(f"{where}.tool_calls", f"{call.id[:64]!r} is there twice")
            open_calls.add(call.id)
    if open_calls:
        problem = f"there is no result of the call {min(open_calls)[:64]!r}"
        raise InvalidInputError("messages", problem)
    return tuple(_plain(message) for message in messages)


def _plain(message: _Message) -> Message:
    content = message.content or ""
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    plain: Message = {"role": role, "content": text}
    if message.tool_calls:
        plain["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _default(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _is_one_of(value: Any, harmless: tuple[Any, ...]) -> bool:
    # Types count: 1 == True and 0 == False in Python, but not in JSON.
    return any(type(value) is type(item) and value == item for item in harmless)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def explain(error: ValidationError) -> InvalidInputError:
    first = error.errors()[0]
    # Alternatives of a union and their constraints are pydantic's words, not the client's.
    path = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    path = [part for part in path if part not in ("str", "_TextPart")]
    field = ".".join(str(part) for part in path) or "body"
    if first["type"] == "extra_forbidden":
        return InvalidInputError(field, "is not a supported parameter")
    if first["type"] == "missing":
        return InvalidInputError(field, "is required")
    return InvalidInputError(field, f"{first['msg']}, got {_short_repr(first['input'])}")


def _short_repr(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
