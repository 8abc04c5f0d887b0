"""Models as sold, and requests that do not fit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airan.core.errors import InvalidInputError
from marketplace.adapters.adapter import AdapterFormat
from marketplace.billing.quotes import Ask
from marketplace.jobs import Job
from marketplace.money import Price


@dataclass(frozen=True)
class ModelOffer:
    """A model as sold."""

    name: str
    n_ctx: int
    price: Price
    kind: Literal["chat", "embeddings"] = "chat"
    adapter_format: AdapterFormat = "gguf"
    """Which LoRA adapters its engine loads."""
    no_adapters: str = ""
    """Why it loads none; empty: it does."""

    def check_chat(self) -> None:
        """Lets requests for answers through.

        Raises:
            InvalidInputError: the model makes embeddings only.
        """
        if self.kind != "chat":
            raise InvalidInputError(
                "model",
                f"{self.name!r} makes embeddings, and no answers",
                remedy="send it to /v1/embeddings, or name a chat model",
            )

    def check_embeddings(self) -> None:
        """Lets requests for embeddings through.

        Raises:
            InvalidInputError: the model makes answers only.
        """
        if self.kind != "embeddings":
            raise InvalidInputError("model", f"{self.name!r} does not support embeddings")

    def check_adapter(self, form: AdapterFormat) -> None:
        """Lets adapters of that form through.

        Raises:
            InvalidInputError: the model takes none, or others.
        """
        why = "makes embeddings" if self.kind != "chat" else self.no_adapters
        if why:
            raise InvalidInputError("base", f"{self.name!r} takes no adapters: it {why}")
        if form != self.adapter_format:
            text = f"{self.name!r} takes adapters in the format {self.adapter_format!r} only"
            raise InvalidInputError("format", text)


def ask_for(job: Job, offer: ModelOffer) -> Ask:
    """What the job can cost; a prompt that was not counted yet may fill the context."""
    n_prompt, max_tokens = offer.n_ctx, job.request.max_tokens or offer.n_ctx
    if job.prompt_ids is not None:
        n_prompt, max_tokens = len(job.prompt_ids), job.max_tokens
    elif job.tally is not None:
        n_prompt, max_tokens = job.tally.most_input, job.max_tokens
    return Ask(job.principal, job.request.model, job.request.service_tier, n_prompt, max_tokens)


class ContextLengthError(InvalidInputError):
    """Prompt and answer do not fit the model's context."""

    def __init__(self, n_ctx: int, n_prompt: int, n_answer: int) -> None:
        self.n_ctx = n_ctx
        asked = f"{n_prompt} in the messages" + (
            f", {n_answer} in the completion" if n_answer else ""
        )
        super().__init__(
            "messages",
            f"This model's maximum context length is {n_ctx} tokens. However, your request needs "
            f"{n_prompt + max(n_answer, 1)} tokens ({asked}).",
            remedy="shorten the messages or lower max_tokens",
        )
