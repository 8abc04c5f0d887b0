"""The gateway's OpenAPI document: what FastAPI knows of the routes, and what they take and give."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from marketplace.gateway.openapi_schemas import BODIES, COMPONENTS, FILES, FORMS, Schema, ref

_JSON, _EVENTS = "application/json", "text/event-stream"
_FORM, _FILE = "multipart/form-data", "application/octet-stream"
_PROBES = ("/healthz", "/readyz", "/metrics")
# Status and schema of the answer by method and path, where it is not a 200 with some object.
_ANSWERS: dict[str, tuple[int, str]] = {
    "GET /v1/models": (200, "Models"),
    "GET /v1/models/{name}": (200, "Model"),
    "POST /v1/chat/completions": (200, "ChatCompletion"),
    "POST /v1/completions": (200, "Completion"),
    "POST /v1/responses": (200, "Response"),
    "GET /v1/responses/{response_id}": (200, "Response"),
    "POST /v1/responses/{response_id}/cancel": (200, "Response"),
    "DELETE /v1/responses/{response_id}": (200, "Deleted"),
    "POST /v1/files": (200, "File"),
    "GET /v1/files": (200, "Files"),
    "GET /v1/files/{file_id}": (200, "File"),
    "DELETE /v1/files/{file_id}": (200, "Deleted"),
    "POST /v1/adapters": (201, "Adapter"),
    "GET /v1/adapters": (200, "Adapters"),
    "GET /v1/adapters/{adapter_id}": (200, "Adapter"),
    "PUT /v1/adapters/{adapter_id}/content": (200, "Adapter"),
    "DELETE /v1/adapters/{adapter_id}": (200, "Deleted"),
    "POST /admin/v1/adapters": (201, "Adapter"),
    "PUT /admin/v1/adapters/{adapter_id}/content": (200, "Adapter"),
    "POST /v1/batches": (200, "Batch"),
    "GET /v1/batches": (200, "Batches"),
    "GET /v1/batches/{batch_id}": (200, "Batch"),
    "POST /v1/batches/{batch_id}/cancel": (200, "Batch"),
    "POST /v1/keys": (201, "Key"),
    "POST /v1/keys/{key_id}/rotate": (201, "Key"),
    "GET /v2/nvcf/functions": (200, "Functions"),
    "POST /v2/nvcf/functions": (201, "Function"),
    "POST /v2/nvcf/functions/{function_id}/versions": (201, "Function"),
    "GET /v2/nvcf/functions/{function_id}/versions": (200, "Functions"),
    "GET /v2/nvcf/functions/{function_id}/versions/{version_id}": (200, "Function"),
    "DELETE /v2/nvcf/functions/{function_id}/versions/{version_id}": (200, "Function"),
    "DELETE /admin/v1/functions/{function_id}/versions/{version_id}": (200, "Function"),
    "POST /admin/v1/functions": (201, "Function"),
    "POST /admin/v1/tenants": (201, "Anything"),
    "POST /admin/v1/projects": (201, "Anything"),
    "POST /admin/v1/users": (201, "Anything"),
    "POST /admin/v1/keys": (201, "Key"),
    "POST /admin/v1/keys/{key_id}/rotate": (201, "Key"),
    "POST /admin/v1/prices": (201, "Anything"),
    "POST /admin/v1/budgets": (201, "Anything"),
    "POST /admin/v1/payments": (201, "Anything"),
    "POST /admin/v1/credits": (201, "Anything"),
    "POST /admin/v1/refunds": (201, "Anything"),
}
for _prefix in ("/v1/webhooks", "/admin/v1/tenants/{tenant}/webhooks"):
    _ANSWERS |= {
        f"GET {_prefix}": (200, "Webhooks"),
        f"POST {_prefix}": (201, "Webhook"),
        f"GET {_prefix}/{{endpoint_id}}": (200, "Webhook"),
        f"DELETE {_prefix}/{{endpoint_id}}": (200, "Deleted"),
        f"POST {_prefix}/{{endpoint_id}}/test": (202, "Message"),
        f"POST {_prefix}/{{endpoint_id}}/deliveries/{{message_id}}/resend": (202, "Message"),
    }
# Where there are other answers, by status: their media types.
_MORE: dict[str, dict[int, tuple[str, ...]]] = {
    "POST /v1/chat/completions": {200: (_EVENTS,)},
    "POST /v1/completions": {200: (_EVENTS,)},
    "POST /v1/responses": {200: (_EVENTS,)},
    "GET /v1/responses/{response_id}": {200: (_EVENTS,)},
    "GET /v1/files/{file_id}/content": {200: ("application/octet-stream",)},
    "GET /v1/usage": {200: ("text/csv",)},
    "GET /admin/v1/costs": {200: ("text/csv",)},
    "GET /v1/invoices/{month}": {200: ("text/csv", "application/pdf")},
    "GET /admin/v1/invoices/{tenant}/{month}": {200: ("text/csv", "application/pdf")},
    "GET /v2/nvcf/results/{job_id}": {200: ("*/*",)},
    "GET /readyz": {503: (_JSON,)},
    "GET /metrics": {200: ("text/plain",)},
}
_INVOKING = (
    "POST /v2/nvcf/pexec/functions/{function_id}",
    "POST /v2/nvcf/pexec/functions/{function_id}/versions/{version_id}",
    "GET /v2/nvcf/pexec/status/{job_id}",
)


def describe(app: FastAPI) -> None:
    """Has the application publish the whole document, at /openapi.json."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generated())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    components["schemas"] = dict(COMPONENTS)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(f"{method.upper()} {path}", path, operation)
    return document


def _complete(name: str, path: str, operation: dict[str, Any]) -> None:
    if path not in _PROBES:
        operation["security"] = [{"key": []}]
    for kind, schemas in ((_JSON, BODIES), (_FORM, FORMS), (_FILE, FILES)):
        if name in schemas:
            content = {kind: {"schema": schemas[name]}}
            operation["requestBody"] = {"required": True, "content": content}
    _name_parts(path, operation)
    operation["responses"] = _answers(name)


def _name_parts(path: str, operation: dict[str, Any]) -> None:
    """Parts of a prefix's path that no handler has as its parameter."""
    parameters = operation.setdefault("parameters", [])
    known = {one["name"] for one in parameters if one["in"] == "path"}
    for part in path.split("/"):
        if part.startswith("{") and part[1:-1] not in known:
            schema = {"type": "string"}
            parameters.append(
                {"name": part[1:-1], "in": "path", "required": True, "schema": schema}
            )


def _answers(name: str) -> dict[str, Any]:
    status, schema = _ANSWERS.get(name, (200, "Anything"))
    answers = {str(status): _answer("Successful", {_JSON: ref(schema)})}
    if name in _INVOKING:
        # Of a container it is whatever that answers.
        answers["200"] = _answer("The result", {"*/*": {}})
        answers["202"] = _answer("Not done yet", {_JSON: ref("Invocation")})
        answers["302"] = _answer("Where a large result lies", {})
    for code, kinds in _MORE.get(name, {}).items():
        answer = answers.setdefault(str(code), _answer("Successful", {}))
        answer.setdefault("content", {}).update({kind: {} for kind in kinds})
    answers["default"] = _answer("An error", {_JSON: ref("Error")})
    return answers


def _answer(description: str, content: dict[str, Schema]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if content:
        answer["content"] = {
            kind: {"schema": schema} if schema else {} for kind, schema in content.items()
        }
    return answer
