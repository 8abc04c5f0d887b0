"""The text-completion request as checked, and its answer in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airan.core.errors import InvalidInputError
from marketplace.chat import (
    ChatRequest,
    check_encodable,
    parse_chat_request,
    without_harmless,
)
from marketplace.engines.base import TokenLogprob

MAX_PROMPTS = 32
MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "n": (None, 1),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
}
_OWN = ("prompt", "logprobs")


def parse_completion_request(values: dict[str, Any]) -> list[ChatRequest]:
    """Checks the decoded JSON body of a text completion: a request for every prompt.

    Raises:
        InvalidInputError: a parameter is missing, wrong, or not supported; `field` names it.
    """
    check_encodable(values)
    known = without_harmless(values, _HARMLESS)
    for key in ("messages", "top_logprobs", "response_format", "max_completion_tokens", "tools"):
        if key in known:
            raise InvalidInputError(key, "is not a parameter of a text completion")
    prompts = _prompts(known.get("prompt"))
    n_logprobs = known.get("logprobs")
    if n_logprobs is not None and (
        type(n_logprobs) is not int or not 0 <= n_logprobs <= MAX_LOGPROBS
    ):
        raise InvalidInputError("logprobs", f"must be a whole number from 0 to {MAX_LOGPROBS}")
    shared = {key: value for key, value in known.items() if key not in _OWN}
    # All that both kinds of completions have in common is checked in one place.
    common = parse_chat_request(shared | {"messages": [{"role": "user", "content": ""}]})
    if common.max_tokens is None:
        common = replace(common, max_tokens=DEFAULT_MAX_TOKENS)
    return [
        replace(
            common,
            messages=(),
            prompt=prompt if isinstance(prompt, str) else "",
            prompt_token_ids=() if isinstance(prompt, str) else tuple(prompt),
            n_logprobs=n_logprobs,
            body=json.dumps(values | {"prompt": prompt}),
        )
        for prompt in prompts
    ]


def parse_request(values: Any) -> ChatRequest:
    """A stored request, of whichever kind it is.

    Raises:
        InvalidInputError: it is neither.
    """
    if isinstance(values, dict) and "prompt" in values:
        return parse_completion_request(values)[0]
    return parse_chat_request(values)


def text_completion(
    job_id: str,
    request: ChatRequest,
    created_s: float,
    choices: list[dict[str, Any]],
    usage: dict[str, Any] | None,
) -> dict[str, Any]:
    """An answer, or a part of a stream, in OpenAI's form; the id is the first prompt's job's."""
    answer: dict[str, Any] = {
        "id": "cmpl-" + job_id.replace("-", ""),
        "object": "text_completion",
        "created": int(created_s),
        "model": request.model,
        "choices": choices,
    }
    return answer if usage is None else answer | {"usage": usage}


def text_choice(
    index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One prompt's answer."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def text_logprobs(
    tokens: Sequence[TokenLogprob], n_top: int | None, offset: int = 0
) -> dict[str, Any] | None:
    """A text choice's `logprobs` in OpenAI's form; `offset` is where in the answer they begin."""
    if n_top is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {other.text: other.logprob for other in token.top[:n_top]} for token in tokens
        ],
        "text_offset": offsets,
    }


def _prompts(value: Any) -> list[str | list[int]]:
    if value is None:
        raise InvalidInputError("prompt", "is required")
    many = isinstance(value, list) and bool(value) and isinstance(value[0], str | list)
    prompts = value if many else [value]
    if len(prompts) > MAX_PROMPTS:
        raise InvalidInputError("prompt", f"at most {MAX_PROMPTS} prompts in one request")
    for prompt in prompts:
        _check_prompt(prompt)
    return list(prompts)


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str) and prompt:
        return
    whole = isinstance(prompt, list) and bool(prompt)
    if not whole or not all(type(token) is int and 0 <= token < 2**31 for token in prompt):
        raise InvalidInputError(
            "prompt", "must be a text or a list of token ids, or a list of those, and not empty"
        )
