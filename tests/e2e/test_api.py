"""The real openai client against the real engine, through the real gateway."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.e2e.conftest import MODEL, Site

pytestmark = pytest.mark.e2e


def test_the_model_is_listed(site: Site) -> None:
    assert [model.id for model in site.client().models.list()] == [MODEL]


def test_a_completion_is_answered_and_metered(site: Site) -> None:
    before = site.stats()
    answer = site.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=12,
        temperature=0,
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    after = site.stats()
    assert after["requests"]["completed"] == before["requests"]["completed"] + 1
    used = after["tokens"]["output"] - before["tokens"]["output"]
    assert used == answer.usage.completion_tokens
    assert after["revenue_usd"] > before["revenue_usd"]


def test_a_stream_gives_the_same_text_as_a_plain_answer(site: Site) -> None:
    request = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 24,
        "temperature": 0,
    }
    plain = site.client().chat.completions.create(**request)
    chunks = list(
        site.client().chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert len(chunks) > 5


def test_a_wrong_key_is_refused_in_openais_form(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        site.client(key="ak-wrong").models.list()
    assert caught.value.code == "invalid_api_key"


def test_an_unknown_model_is_named(site: Site) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        site.client().chat.completions.create(
            model="gpt-9", messages=[{"role": "user", "content": "hi"}]
        )
    assert caught.value.code == "model_not_found"
    assert "gpt-9" in str(caught.value)


def test_an_oversized_prompt_is_refused_with_the_limit(site: Site) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        site.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 6000}]
        )
    assert caught.value.code == "context_length_exceeded"
    assert "2048" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{not json", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"model": 3}', 400),
        ("GET", "/v1/nothing-here", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
    ],
)
def test_bad_requests_get_openais_error_object(
    site: Site, method: str, path: str, body: bytes | None, status: int
) -> None:
    headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json"}
    answer = httpx.request(
        method, site.gateway_url + path, content=body, headers=headers, timeout=30
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
