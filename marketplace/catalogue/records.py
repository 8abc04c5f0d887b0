"""What is known of a model's file, on disk, so that every process of the site sees the same."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from airan.core.errors import ConfigError

CachingState = Literal["pending", "in_progress", "ready", "failed"]
_STATES = ("pending", "in_progress", "ready", "failed")


@dataclass(frozen=True)
class FileSource:
    """A model's one file: fetched from `url`, or already at `path`."""

    name: str
    """The model's, fit for a file's name."""
    sha256: str
    """Of the file, 64 hexadecimal digits."""
    url: str = ""
    path: Path | None = None
    size_bytes: int | None = None
    """Checked too where it is given."""

    def __post_init__(self) -> None:
        if bool(self.url) == (self.path is not None):
            raise ConfigError(
                f"model {self.name!r} has both a url and a path, or neither",
                remedy="give it one of them",
            )


@dataclass(frozen=True)
class Caching:
    """How far a model's file is."""

    state: CachingState
    done_bytes: int = 0
    size_bytes: int | None = None
    """Of the whole file, where it is known."""
    reason: str = ""
    """failed: why."""
    remedy: str = ""
    """failed: what to do."""
    retry_s: float | None = None
    """failed: Unix time at which it is tried again without being told; None: never."""
    checked: tuple[int, int] | None = None
    """ready: bytes and nanoseconds of the last change of the file when it was checked."""

    def to_dict(self) -> dict[str, Any]:
        """What is shown of it."""
        values = asdict(self)
        del values["checked"]
        return values


class Records:
    """One small file for each model, replaced in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, source: FileSource) -> Caching | None:
        """What was noted last; None if nothing was, or of another file than `source` names."""
        try:
            values = json.loads(self._path(source).read_text(encoding="utf-8"))
            if values.pop("sha256") != source.sha256 or values["state"] not in _STATES:
                return None
            checked = values.pop("checked")
            return Caching(checked=tuple(checked) if checked else None, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, source: FileSource, caching: Caching) -> None:
        """Notes it.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(asdict(caching) | {"sha256": source.sha256})
        descriptor, name = tempfile.mkstemp(prefix=".record-", dir=self._folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, self._path(source))
        except OSError:
            with suppress(OSError):
                os.unlink(name)
            raise

    def _path(self, source: FileSource) -> Path:
        return self._folder / f"{source.name}.json"


class FileLock:
    """Who works on a file. The kernel drops it at the holder's death, whatever the cause."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def attempt(self) -> Iterator[bool]:
        """Gives whether it is ours for as long as the block lasts; does not wait.

        Raises:
            OSError: its file cannot be made.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def held(self) -> bool:
        """Whether somebody has it now."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)
