"""What the dispatcher asks of any engine, in tokens, and what an engine agent says about itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length"]
Driver = Literal["llamacpp", "vllm"]
Message = dict[str, Any]
"""A chat message in OpenAI's form: `role`, `content`, and what function calls need besides."""
Phase = Literal["no_lease", "ready", "draining", "cold", "warming", "lost"]
"""`cold`: without work for so long that the model was unloaded; `warming`: being loaded again."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. `temperature` 0 is greedy; `seed` None lets the engine choose one.

    `max_tokens` 0, for engines of text only: whatever the context has room for. The penalties
    look at the last 64 tokens, the prompt's included (llama.cpp's rule).
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    n_logprobs: int | None = None
    """How many alternatives to report for each token; None reports no log probabilities at all."""
    json_schema: Mapping[str, Any] | None = None
    """What the answer has to satisfy, from its first token on."""
    stops: tuple[str, ...] = ()
    """Texts that end the answer, which engines of tokens do not look at."""
    tools: Mapping[str, Any] | None = None
    """Members of the request that offer functions, which engines of tokens do not look at."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log probability before sampling, and its likeliest alternatives."""

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Some tokens and their text, always whole characters.

    `n_generated` is the engine's own count of tokens since generate() was called; it runs ahead
    of the ids only in the last chunk, when `max_tokens` cut a character in two.
    """

    text: str
    token_ids: tuple[int, ...]
    n_generated: int
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """A served model. All calls raise UnavailableError when it cannot be reached just now."""

    def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        slot: int,
        adapter: str = "",
    ) -> AsyncIterator[TokenChunk]:
        """Continues the prompt in slot `slot`; the last chunk has a finish reason.

        `adapter`: the id of a LoRA adapter that the engine has loaded; empty: the model alone.
        What a slot keeps of one is never used for another. Closing the iterator stops the engine
        within a token, or within a piece of the prompt.

        Raises:
            InvalidInputError: the engine refuses the prompt or a parameter.
        """
        ...

    async def apply_template(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Chat messages -> the model's prompt text, open for the assistant's answer.

        `tools`: the template's variable of that name; a template that has none ignores them.
        """
        ...

    async def tokenize(
        self, text: str, *, parse_special: bool, add_special: bool = False
    ) -> list[int]:
        """Text -> token ids; `parse_special` reads control tokens like <|im_end|>.

        `add_special`: with the tokens that the model wants before and after every text.
        """
        ...

    async def embed(self, token_ids: Sequence[int]) -> list[float]:
        """The text's embedding.

        Raises:
            InvalidInputError: the engine was not started for embeddings.
        """
        ...

    async def health(self) -> bool:
        """Whether the engine answers."""
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


@dataclass(frozen=True)
class EngineState:
    """What an engine agent tells its dispatchers; `version` grows with every change."""

    name: str
    model: str
    phase: Phase
    version: int = 0
    lease_id: str = ""
    sm_count: int = 0
    url: str = ""
    """Where the engine itself listens; it may be used only while the phase is `ready`."""
    driver: Driver = "llamacpp"
    """What listens there."""
    max_concurrent: int = 0
    """Requests it takes at once on the present lease."""
    n_slots: int = 0
    """Slots the engine has, numbered from 0; each keeps the prompt it saw last."""
    running: int = 0
    """Requests it was working on when last looked."""
    n_ctx: int = 0
    deadline_s: float = 0.0
    """draining: Unix time by which the lease must be given back."""
    idle_s: float = 0.0
    """Without a word that it is wanted for so long, and without work, it goes cold; 0: never."""
    cold_start_s: float = 0.0
    """How long it took last from being wanted to being ready; 0: it never was cold."""
    n_cold_starts: int = 0
    prefill_piece_tokens: int = 0
    """The prompt is fed in pieces of so many tokens, so that it can be stopped between two."""
    adapters: tuple[str, ...] = ()
    """Ids of the LoRA adapters it has loaded, in llama.cpp's order."""
    refused: tuple[tuple[str, str], ...] = ()
    """Ids of those that it cannot load, and why."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineState:
        """From to_dict()'s form; keys of a newer agent are passed over."""
        known = {key: values[key] for key in cls.__dataclass_fields__ if key in values}
        # JSON has no tuples.
        known["adapters"] = tuple(values.get("adapters", ()))
        known["refused"] = tuple((str(one), str(why)) for one, why in values.get("refused", ()))
        return cls(**known)


def allowed_streams(sm_count: int, sm_per_stream: int, max_concurrent: int) -> int:
    """Requests an engine takes at once: one for every `sm_per_stream` SMs, at least one."""
    return max(1, min(max_concurrent, sm_count // sm_per_stream))
