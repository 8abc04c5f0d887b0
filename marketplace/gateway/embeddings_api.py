"""OpenAI's embeddings: /v1/embeddings."""

from __future__ import annotations

import array
import base64
import sys
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from marketplace.chat import check_encodable, explain, tier_of
from marketplace.completions import MAX_PROMPTS
from marketplace.dispatch.embedder import EmbeddingWork
from marketplace.gateway.runtime import Runtime
from marketplace.principal import Principal

_Text = Annotated[str, Field(min_length=1)]
_Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
_Tokens = Annotated[list[_Token], Field(min_length=1)]
_Many = Annotated[list[_Text] | list[_Tokens], Field(min_length=1, max_length=MAX_PROMPTS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    input: _Text | _Tokens | _Many
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    user: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


def build_router(runtime: Runtime) -> APIRouter:
    """The route /v1/embeddings."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/embeddings")
    async def create_embeddings(request: Request) -> Response:
        principal, values = await runtime.read_body(request)
        return JSONResponse(await answer_embeddings(runtime, principal, values))

    return router


async def answer_embeddings(
    runtime: Runtime, principal: Principal, values: dict[str, Any], name: str = ""
) -> dict[str, Any]:
    """The answer to a decoded body; what is asked again under the same `name` is billed once.

    Raises:
        InvalidInputError: a parameter is wrong, or the model has no embeddings.
        UnavailableError: no engine for the model can be reached.
        CapacityError: too many wait, or its tier or a limit of the tenant refuses it.
    """
    check_encodable(values)
    try:
        body = _Body.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error
    adapter = runtime.adapter_of(principal, body.model)
    offer = runtime.offers[body.model if adapter is None else adapter.base]
    offer.check_embeddings()
    several = isinstance(body.input, list) and isinstance(body.input[0], str | list)
    inputs: Any = body.input if several else [body.input]
    tier = "flex" if principal.is_peer else tier_of(body.service_tier)
    work = EmbeddingWork(principal, offer, inputs, runtime.settings.engine_wait_s, name, tier)
    vectors, n_tokens = await runtime.dispatcher.embedder.embed(work)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": encoded(vector, body.encoding_format),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def encoded(vector: list[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    """The embedding as numbers, or as the base64 of little-endian float32."""
    if encoding == "float":
        return vector
    packed = array.array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
