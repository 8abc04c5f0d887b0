"""OpenAI's embeddings: /v1/embeddings."""

from __future__ import annotations

import array
import base64
import sys
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import check_encodable, explain
from marketplace.completions import MAX_PROMPTS
from marketplace.engines.base import Engine
from marketplace.gateway.runtime import Runtime

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


def build_router(runtime: Runtime) -> APIRouter:
    """The route /v1/embeddings."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/embeddings")
    async def create_embeddings(request: Request) -> Response:
        _, values = await runtime.read_body(request)
        return JSONResponse(await answer_embeddings(runtime, values))

    return router


async def answer_embeddings(runtime: Runtime, values: dict[str, Any]) -> dict[str, Any]:
    """The answer to a decoded body.

    Raises:
        InvalidInputError: a parameter is wrong, or the model has no embeddings.
        UnavailableError: no engine for the model can be reached.
    """
    check_encodable(values)
    try:
        body = _Body.model_validate(values)
    except ValidationError as error:
        raise explain(error) from error
    pool = runtime.dispatcher.pool
    if pool.external(body.model) is not None:
        raise InvalidInputError("model", f"{body.model!r} does not support embeddings")
    engine = await pool.wait_for_client(body.model, runtime.settings.engine_wait_s)
    if engine is None:
        raise UnavailableError(
            f"no engine for {body.model} can be reached", remedy="try again in a few seconds"
        )
    return await _embed(engine, body)


def encoded(vector: list[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    """The embedding as numbers, or as the base64 of little-endian float32."""
    if encoding == "float":
        return vector
    packed = array.array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


async def _embed(engine: Engine, body: _Body) -> dict[str, Any]:
    several = isinstance(body.input, list) and isinstance(body.input[0], str | list)
    inputs: Any = body.input if several else [body.input]
    data, n_tokens = [], 0
    for index, item in enumerate(inputs):
        ids = item if isinstance(item, list) else await engine.tokenize(item, parse_special=False)
        n_tokens += len(ids)
        try:
            vector = await engine.embed(ids)
        except InvalidInputError as error:
            raise InvalidInputError(
                "model", f"{body.model!r} does not support embeddings"
            ) from error
        embedding = encoded(vector, body.encoding_format)
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}
