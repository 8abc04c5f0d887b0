"""The configuration of a further model that the site serves itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from airan.core.sections import Section


class LlamaModelConfig(Section):
    """A further model that the site serves itself, on a part of its lease."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """By which tenants ask for it."""
    engine: Literal["llamacpp"]
    url: str = Field(default="", pattern=r"^(|https?://\S+)$")
    """Where its GGUF file is fetched from."""
    path: Path | None = None
    """Or where the file lies already."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file. Nothing else is ever served."""
    size_bytes: int | None = Field(default=None, ge=1)
    """Of the file; checked where it is given."""
    n_ctx: int = Field(default=2048, ge=64, le=131_072)
    """Context tokens of one request."""
    max_concurrent: int = Field(default=2, ge=1, le=64)
    n_threads: int = Field(default=1, ge=1, le=256)
    kind: Literal["chat", "embeddings"] = "chat"
    pooling: Literal["model", "mean", "cls", "last"] = "model"
    """`embeddings`: how one vector is made of all tokens'; `model`: as its file says."""
    idle_s: float = Field(default=0.0, ge=0.0)
    """Seconds without work after which it is unloaded until the next request; 0: never."""
    sm_count: int = Field(default=16, ge=1, le=1024)
    """SMs of the lease that it takes; the site's own model has the rest."""
    price_usd_per_1k_input_tokens: float = Field(default=0.01, ge=0.0)
    price_usd_per_1k_output_tokens: float = Field(default=0.03, ge=0.0)

    @model_validator(mode="after")
    def _has_one_origin(self) -> LlamaModelConfig:
        if bool(self.url) == (self.path is not None):
            raise ValueError("give the model a url or a path, one of them")
        return self
