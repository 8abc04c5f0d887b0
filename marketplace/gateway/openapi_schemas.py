"""JSON schemas of what the gateway takes and gives, for its OpenAPI document."""

from __future__ import annotations

from typing import Any

from marketplace.functions import MAX_RESPONSE_BYTES, MAX_TIMEOUT_S
from marketplace.gateway import adapters_api, admin_api, admin_money_api, admin_peers_api
from marketplace.gateway.bodies import Body, KeyBody, Rotation
from marketplace.tools import MAX_TOOLS
from marketplace.webhooks import EVENT_TYPES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def either(*values: str) -> Schema:
    """One of some texts."""
    return {"type": "string", "enum": list(values)}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema, n_min: int = 0) -> Schema:
    """A list of such values."""
    return {"type": "array", "items": schema, "minItems": n_min}


def given(required: str = "", **members: Schema) -> Schema:
    """A request's object: no other members than these."""
    names = required.split()
    shape: Schema = {"type": "object", "properties": members, "additionalProperties": False}
    return shape | {"required": names} if names else shape


def shown(**members: Schema) -> Schema:
    """An answer's object: these members at least."""
    return {"type": "object", "properties": members, "required": list(members)}


_WITHIN_2 = {"type": "number", "minimum": 0, "maximum": 2}
_TEMPERING: dict[str, Schema] = {
    "temperature": maybe(_WITHIN_2),
    "top_p": maybe({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "service_tier": maybe(either("auto", "default", "flex", "priority")),
    "stream": maybe(TRUTH),
}
_STOP = {"type": "string", "minLength": 1, "maxLength": 256}
_PENALTY = {"type": "number", "minimum": -2, "maximum": 2}
_COUNT = {"type": "integer", "minimum": 1}
_SAMPLING: dict[str, Schema] = {
    **_TEMPERING,
    "max_tokens": maybe(_COUNT),
    "seed": maybe({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
    "stop": {"anyOf": [_STOP, listed(_STOP) | {"maxItems": 4}, {"type": "null"}]},
    "presence_penalty": maybe(_PENALTY),
    "frequency_penalty": maybe(_PENALTY),
    "stream_options": maybe(given(include_usage=TRUTH)),
}
_CONTENT: Schema = {
    "anyOf": [TEXT, listed(given("type text", type=either("text"), text=TEXT))],
}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_CALL = given(
    "id type function",
    id={"type": "string", "minLength": 1, "maxLength": 256},
    type=either("function"),
    function=given("name arguments", name=_NAME, arguments=TEXT),
)
_MESSAGE: Schema = {
    "anyOf": [
        given(
            "role content",
            role=either("system", "developer", "user", "assistant"),
            content=_CONTENT,
        ),
        given(
            "role tool_calls",
            role=either("assistant"),
            content=maybe(_CONTENT),
            tool_calls=listed(_CALL, 1),
        ),
        given(
            "role content tool_call_id", role=either("tool"), content=_CONTENT, tool_call_id=TEXT
        ),
    ]
}
_FUNCTION_MEMBERS: dict[str, Schema] = {
    "name": _NAME,
    "description": maybe(TEXT),
    "parameters": maybe(ANY_OBJECT),
    "strict": maybe(TRUTH),
}
_CHOICES = either("none", "auto", "required")
_TOOL = given("type function", type=either("function"), function=given("name", **_FUNCTION_MEMBERS))
_TOOLS: dict[str, Schema] = {
    "tools": maybe(listed(_TOOL) | {"maxItems": MAX_TOOLS}),
    "tool_choice": {
        "anyOf": [
            _CHOICES,
            given("type function", type=either("function"), function=given("name", name=_NAME)),
            {"type": "null"},
        ]
    },
    "parallel_tool_calls": maybe(TRUTH),
}
_FLAT_TOOL = given("type name", type=either("function"), **_FUNCTION_MEMBERS)
_FLAT_TOOLS: dict[str, Schema] = {
    "tools": maybe(listed(_FLAT_TOOL) | {"maxItems": MAX_TOOLS}),
    "tool_choice": {
        "anyOf": [
            _CHOICES,
            given("type name", type=either("function"), name=_NAME),
            maybe(_CHOICES),
        ]
    },
    "parallel_tool_calls": maybe(TRUTH),
}
_FORMAT: Schema = {
    "anyOf": [
        given("type", type=either("text", "json_object")),
        given(
            "type json_schema",
            type=either("json_schema"),
            json_schema=given(
                "name",
                name=_NAME,
                schema=ANY_OBJECT,
            ),
        ),
    ]
}
_TOKENS = listed({"type": "integer", "minimum": 0}, 1)
_CHAT = given(
    "model messages",
    model=TEXT,
    messages=listed(_MESSAGE, 1),
    max_completion_tokens=maybe(_COUNT),
    logprobs=maybe(TRUTH),
    top_logprobs=maybe({"type": "integer", "minimum": 0, "maximum": 20}),
    response_format=maybe(_FORMAT),
    **_TOOLS,
    **_SAMPLING,
)
_COMPLETION = given(
    "model prompt",
    model=TEXT,
    prompt={"anyOf": [TEXT, _TOKENS, listed(TEXT, 1)]},
    logprobs=maybe({"type": "integer", "minimum": 0, "maximum": 5}),
    **_SAMPLING,
)
_RESPONSE_PART = given("type text", type=either("input_text", "output_text"), text=TEXT)
_RESPONSE_TEXT: Schema = {"anyOf": [TEXT, listed(_RESPONSE_PART)]}
_CALL_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
_RESPONSE_ITEM: Schema = {
    "anyOf": [
        given(
            "role content",
            type=either("message"),
            role=either("user", "assistant", "system", "developer"),
            content=_RESPONSE_TEXT,
        ),
        given(
            "type call_id name arguments",
            type=either("function_call"),
            call_id=_CALL_ID,
            name=_NAME,
            arguments=TEXT,
        ),
        given(
            "type call_id output",
            type=either("function_call_output"),
            call_id=_CALL_ID,
            output=_RESPONSE_TEXT,
        ),
    ]
}
_RESPONSE = given(
    "model input",
    model=TEXT,
    input={"anyOf": [{"type": "string", "minLength": 1}, listed(_RESPONSE_ITEM, 1)]},
    instructions=maybe(TEXT),
    max_output_tokens=maybe({"type": "integer", "minimum": 16}),
    background=maybe(TRUTH),
    store=maybe(TRUTH),
    previous_response_id=maybe({"type": "string", "maxLength": 64}),
    **_FLAT_TOOLS,
    **_TEMPERING,
)
_FUNCTION = given(
    "name",
    name={"type": "string", "pattern": "^[A-Za-z0-9._ -]+$", "maxLength": 64},
    model=maybe(TEXT),
    url=maybe(TEXT),
    inferenceUrl=TEXT,
    healthUri=TEXT,
    timeoutSeconds={"type": "number", "minimum": 1, "maximum": MAX_TIMEOUT_S},
    maxResponseBytes={"type": "integer", "minimum": 1, "maximum": MAX_RESPONSE_BYTES},
)
_FORM = given(
    "purpose file",
    purpose=either("batch"),
    file={"type": "string", "contentMediaType": "application/octet-stream"},
)
_WEBHOOK = given("url", url=TEXT, events=listed(either(*EVENT_TYPES)))
_EMBEDDING = given(
    "model input",
    model=TEXT,
    input={"anyOf": [{"type": "string", "minLength": 1}, _TOKENS, listed(TEXT, 1)]},
    encoding_format=either("float", "base64"),
    user=maybe(TEXT),
    service_tier=_TEMPERING["service_tier"],
)
_BATCH = given(
    "input_file_id endpoint completion_window",
    input_file_id={"type": "string", "maxLength": 64},
    endpoint=either("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
    completion_window=either("24h"),
    metadata=maybe({"type": "object", "additionalProperties": TEXT, "maxProperties": 16}),
)


def _of(kind: type[Body]) -> Schema:
    return kind.model_json_schema()


BODIES: dict[str, Schema] = {
    "POST /v1/chat/completions": _CHAT,
    "POST /v1/completions": _COMPLETION,
    "POST /v1/embeddings": _EMBEDDING,
    "POST /v1/responses": _RESPONSE,
    "POST /v1/batches": _BATCH,
    "POST /v1/webhooks": _WEBHOOK,
    "POST /v1/webhooks/{endpoint_id}/rotate": given(grace_s={"type": "number", "minimum": 0}),
    "POST /v1/keys": _of(KeyBody),
    "POST /v1/adapters": _of(adapters_api.NewAdapter),
    "POST /admin/v1/adapters": _of(adapters_api.NewAdapterOf),
    "POST /v1/keys/{key_id}/rotate": _of(Rotation),
    "POST /v2/nvcf/functions": _FUNCTION,
    "POST /v2/nvcf/functions/{function_id}/versions": _FUNCTION,
    "POST /v2/nvcf/pexec/functions/{function_id}": ANY_OBJECT,
    "POST /v2/nvcf/pexec/functions/{function_id}/versions/{version_id}": ANY_OBJECT,
    "POST /admin/v1/functions": _FUNCTION
    | {"properties": {**_FUNCTION["properties"], "priceMicroUsdPerInvocation": WHOLE}},
    "POST /admin/v1/tenants/{tenant}/webhooks": _WEBHOOK,
    "POST /admin/v1/tenants/{tenant}/webhooks/{endpoint_id}/rotate": given(grace_s=NUMBER),
    "POST /admin/v1/tenants": _of(admin_api.NewTenant),
    "PUT /admin/v1/tenants/{tenant}/weight": _of(admin_api.Weight),
    "PUT /admin/v1/tenants/{tenant}/policy": _of(admin_peers_api.Policy),
    "PUT /admin/v1/tenants/{tenant}/peer": _of(admin_peers_api.PeerFlag),
    "POST /admin/v1/projects": _of(admin_api.NewProject),
    "POST /admin/v1/users": _of(admin_api.NewUser),
    "POST /admin/v1/keys": _of(admin_api.NewKey),
    "POST /admin/v1/keys/{key_id}/rotate": _of(Rotation),
    "POST /admin/v1/prices": _of(admin_money_api.NewPrice),
    "POST /admin/v1/budgets": _of(admin_money_api.NewBudget),
    "PUT /admin/v1/quotas": _of(admin_money_api.NewQuota),
    "POST /admin/v1/payments": _of(admin_money_api.Payment),
    "POST /admin/v1/credits": _of(admin_money_api.Payment),
    "POST /admin/v1/refunds": _of(admin_money_api.Refund),
}
"""What is sent as JSON, by method and path."""
FORMS: dict[str, Schema] = {"POST /v1/files": _FORM}
"""What is sent as multipart/form-data."""
FILES: dict[str, Schema] = {
    f"PUT {prefix}/adapters/{{adapter_id}}/content": {"type": "string", "format": "binary"}
    for prefix in ("/v1", "/admin/v1")
}
"""What is sent as it is."""

_USAGE = shown(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE)
_ENDING = maybe(either("stop", "length"))
_CHOICE = shown(
    index=WHOLE,
    message=shown(role=either("assistant"), content=maybe(TEXT)),
    finish_reason=maybe(either("stop", "length", "tool_calls")),
)
_TEXT_CHOICE = shown(index=WHOLE, text=TEXT, finish_reason=_ENDING)
_BATCH_STATES = "validating failed in_progress finalizing completed expired cancelling cancelled"


def _listing(of: Schema) -> Schema:
    return shown(data=listed(of))


COMPONENTS: dict[str, Schema] = {
    "Error": shown(
        error=shown(message=TEXT, type=TEXT, param=maybe(TEXT), code=maybe(TEXT)),
    ),
    "Model": shown(id=TEXT, object=either("model"), created=WHOLE, owned_by=TEXT),
    "ChatCompletion": shown(
        id=TEXT,
        object=either("chat.completion"),
        created=WHOLE,
        model=TEXT,
        choices=listed(_CHOICE, 1),
        usage=_USAGE,
    ),
    "Completion": shown(
        id=TEXT,
        object=either("text_completion"),
        created=WHOLE,
        model=TEXT,
        choices=listed(_TEXT_CHOICE, 1),
        usage=_USAGE,
    ),
    "Response": shown(
        id=TEXT,
        object=either("response"),
        status=either("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
        output=listed(ANY_OBJECT),
        model=TEXT,
    ),
    "File": shown(id=TEXT, object=either("file"), bytes=WHOLE, filename=TEXT, purpose=TEXT),
    "Adapter": shown(
        id=TEXT,
        object=either("adapter"),
        model=TEXT,
        state=either("pending", "in_progress", "ready", "failed"),
        loaded=TRUTH,
    ),
    "Batch": shown(
        id=TEXT,
        object=either("batch"),
        status=either(*_BATCH_STATES.split()),
        request_counts=shown(total=WHOLE, completed=WHOLE, failed=WHOLE),
    ),
    "Deleted": shown(id=TEXT, deleted=TRUTH),
    "Function": shown(
        function=shown(id=TEXT, versionId=TEXT, name=TEXT, status=TEXT),
    ),
    "Functions": shown(functions=listed(shown(id=TEXT, versionId=TEXT, name=TEXT, status=TEXT))),
    "Webhook": shown(id=TEXT, url=TEXT),
    "Message": shown(message_id=TEXT),
    "Key": shown(id=TEXT, key=TEXT),
    "Invocation": shown(reqId=TEXT, status=TEXT),
    "Listing": _listing(ANY_OBJECT),
    "Models": _listing(ref("Model")),
    "Files": _listing(ref("File")),
    "Batches": _listing(ref("Batch")),
    "Adapters": _listing(ref("Adapter")),
    "Webhooks": _listing(ref("Webhook")),
    "Anything": ANY_OBJECT,
}
