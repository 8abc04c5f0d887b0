"""What the sections of the configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ENV_PREFIX = "AIRAN_"
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A section of the file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def foreign_variable(name: str) -> str:
    """The name of an environment variable that is not one of ours.

    Raises:
        ValueError: it is.
    """
    if name.startswith(ENV_PREFIX):
        raise ValueError(f"variables that begin with {ENV_PREFIX} are configuration keys")
    return name
