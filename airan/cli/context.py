"""What every command shares: the site's folder, the output form, the exit codes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from airan.core import config as site_config
from airan.core.config import SiteConfig
from airan.core.errors import (
    AiranError,
    AuthError,
    ConfigError,
    NotFoundError,
    PortInUseError,
    RetryableError,
)
from airan.site import runtime as site_runtime
from airan.site import warden
from airan.site.runtime import SiteRuntime
from orchestrator.api.client import TlsFiles

Result = TypeVar("Result")

EXIT_CODES = {
    0: "done",
    1: "failed; the message says why",
    2: "the command line is not valid",
    3: "the configuration, a port or an input file is not valid",
    4: "the named thing does not exist, or no site runs",
    5: "a service of the site does not answer, or no capacity is free: try again",
    6: "not allowed: missing or wrong credentials",
}


@dataclass(frozen=True)
class Context:
    """Global options."""

    config_path: Path | None
    state_dir: Path | None
    json: bool
    remote: str = ""
    """Another machine's control plane, HOST:PORT; empty: the running site's of the folder."""
    tls_dir: Path | None = None
    identity: str = "operator"
    """Whose certificate in `tls_dir` to show."""

    def control(self) -> tuple[str, TlsFiles | None]:
        """The control plane's address, and what to show it.

        Raises:
            NotFoundError: no site runs in the state folder, and no other is named.
        """
        tls = None if self.tls_dir is None else TlsFiles.of(self.tls_dir, self.identity)
        if self.remote:
            return self.remote, tls
        return self.site().control_address, None

    def config(self) -> SiteConfig:
        """The configuration of the options, the file and the environment."""
        environ = dict(os.environ)
        if self.state_dir is not None:
            environ["AIRAN_STATE_DIR"] = str(self.state_dir)
        return site_config.load(self.config_path, environ)

    def site(self) -> SiteRuntime:
        """The running site.

        Raises:
            NotFoundError: none runs in the state folder.
        """
        runtime = site_runtime.load(self.config().state_dir)
        if not warden.running(runtime.config.state_dir):
            raise NotFoundError(
                f"no site runs in {runtime.config.state_dir}",
                remedy="start one with `airan up`, or name its folder with --state-dir",
            )
        return runtime


def of(context: typer.Context) -> Context:
    """The global options of this invocation."""
    found = context.find_object(Context)
    if found is None:
        raise RuntimeError("the root callback has not run")
    return found


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs one asynchronous command to its end."""
    return asyncio.run(work)


def exit_code(error: AiranError) -> int:
    """The documented exit code of an error."""
    if isinstance(error, ConfigError | PortInUseError):
        return 3
    if isinstance(error, NotFoundError):
        return 4
    if isinstance(error, RetryableError):
        return 5
    if isinstance(error, AuthError):
        return 6
    return 1
