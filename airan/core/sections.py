"""What the sections of the configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

ENV_PREFIX = "AIRAN_"
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A section of the file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_foreign(name: str) -> str:
    if name.startswith(ENV_PREFIX):
        raise ValueError(f"variables that begin with {ENV_PREFIX} are configuration keys")
    return name


ForeignVariable = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]*$"), AfterValidator(_is_foreign)]
"""Name of an environment variable that is not one of ours; empty: none."""
