"""The models' files: fetched at most once, checked before they count, and never half there."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from airan.core.errors import AiranError, ModelFileError, UnavailableError
from marketplace.catalogue.download import StoppedError, disk_error, download
from marketplace.catalogue.records import Caching, FileLock, FileSource, Records

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""After a failure that may pass, the file is tried again after so long."""
_TRIES = 5
_PAUSE_S = 1.0
_NOTE_S = 0.5
_LOOK_S = 0.2
_HASH_BYTES = 4 << 20

Progress = Callable[[Caching], None]


class ModelCache:
    """Files in `cache_dir`, which several sites may share; what is known of them in `state_dir`.

    All calls are blocking, and safe from several threads and processes.
    """

    def __init__(self, cache_dir: Path, state_dir: Path) -> None:
        self._folder = cache_dir / "models"
        self._records = Records(state_dir / "catalogue")

    def path_of(self, source: FileSource) -> Path:
        """Where the file is, or will be."""
        if source.path is not None:
            return source.path
        return self._folder / f"{source.name}-{source.sha256[:12]}.gguf"

    def look(self, source: FileSource) -> Caching:
        """How far the file is, now."""
        noted = self._records.read(source) or Caching("pending", size_bytes=source.size_bytes)
        if noted.state == "ready" and _stamp(self.path_of(source)) != noted.checked:
            # Removed or changed since: it has to be checked again.
            return Caching("pending", size_bytes=noted.size_bytes)
        if noted.state == "in_progress" and not self._lock(source).held():
            # Whoever worked on it is gone.
            return replace(noted, state="pending")
        return noted

    def fetch(
        self,
        source: FileSource,
        *,
        force: bool = False,
        stop: threading.Event | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Makes sure that the file is there and intact; waits for whoever else is at it.

        `force`: fetches, or checks, also what counts as intact.

        Raises:
            ModelFileError: what came, or lies at the path, is not the file, or the disk is full.
            UnavailableError: the server cannot be reached.
            StoppedError: `stop` was set.
        """
        stop = stop or threading.Event()
        while True:
            try:
                with self._lock(source).attempt() as ours:
                    if ours:
                        return self._fetch(source, force, stop, progress)
            except OSError as error:
                raise disk_error(self.path_of(source), error) from error
            if progress is not None:
                progress(self.look(source))
            if stop.wait(_LOOK_S):
                raise StoppedError

    def refuse(self, source: FileSource, reason: str) -> None:
        """Notes that the file, though it is the right one, is of no use."""
        remedy = f"configure another file, then airan model pull {source.name}"
        self._note(source, Caching("failed", reason=reason, remedy=remedy), None)

    def _fetch(
        self, source: FileSource, force: bool, stop: threading.Event, progress: Progress | None
    ) -> Path:
        if self.look(source).state == "ready" and not force:
            return self.path_of(source)
        try:
            path = self._made(source, force, stop, progress)
            checked = _stamp(path)
            n_bytes = None if checked is None else checked[0]
            self._note(source, Caching("ready", n_bytes or 0, n_bytes, checked=checked), progress)
        except AiranError as error:
            may_pass = isinstance(error, UnavailableError)
            failed = Caching(
                "failed",
                self._partial_bytes(source),
                source.size_bytes,
                reason=error.message,
                remedy="; ".join(
                    part for part in (error.remedy, f"airan model pull {source.name}") if part
                ),
                retry_s=time.time() + RETRY_S if may_pass else None,
            )
            self._note(source, failed, progress)
            raise
        return path

    def _made(
        self, source: FileSource, force: bool, stop: threading.Event, progress: Progress | None
    ) -> Path:
        path = self.path_of(source)
        if source.path is not None:
            self._note(source, Caching("in_progress", 0, source.size_bytes), progress)
            self._check(source, path, stop)
            return path
        if path.exists() and not force:
            with suppress(ModelFileError):
                self._check(source, path, stop)
                return path
        partial = self._partial(source)
        for again in (False, True):
            went_on = self._download(source, partial, stop, progress)
            try:
                self._check(source, partial, stop)
            except ModelFileError:
                # Aside, for whoever wants to know; it is never served.
                os.replace(partial, path.with_suffix(".corrupt"))
                # Put together from two answers it may be none of the server's files.
                if not went_on or again:
                    raise
            else:
                break
        os.replace(partial, path)
        return path

    def _download(
        self,
        source: FileSource,
        partial: Path,
        stop: threading.Event,
        progress: Progress | None,
    ) -> bool:
        """Asks again for the rest while more of it comes; whether it went on with a partial."""
        noted_s = 0.0

        def note(n_bytes: int, size_bytes: int | None) -> None:
            nonlocal noted_s
            if time.monotonic() - noted_s >= _NOTE_S:
                noted_s = time.monotonic()
                size_bytes = size_bytes or source.size_bytes
                self._note(source, Caching("in_progress", n_bytes, size_bytes), progress)

        went_on = False
        for tries_left in range(_TRIES - 1, -1, -1):
            held = self._partial_bytes(source)
            note(held, None)
            try:
                found = download(
                    source.url, partial, limit_bytes=source.size_bytes, stop=stop, on_bytes=note
                )
            except UnavailableError:
                went_on = went_on or held > 0
                if not tries_left or self._partial_bytes(source) <= held:
                    raise
                if stop.wait(_PAUSE_S):
                    raise StoppedError from None
            else:
                return found or went_on
        raise AssertionError("unreachable")

    def _check(self, source: FileSource, path: Path, stop: threading.Event) -> None:
        """Compares the file's size and SHA-256 with what they should be.

        Raises:
            ModelFileError: they differ, or the file cannot be read.
        """
        try:
            size = path.stat().st_size
            if source.size_bytes is not None and size != source.size_bytes:
                raise ModelFileError(
                    f"the file of {source.name} has {size} bytes instead of {source.size_bytes}",
                    remedy="correct the model's url or path, or its size_bytes and sha256",
                )
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_HASH_BYTES):
                    if stop.is_set():
                        raise StoppedError
                    digest.update(piece)
        except OSError as error:
            raise ModelFileError(
                f"model file {path} cannot be read: {error.strerror}",
                remedy="correct the model's path or the file's permissions",
            ) from error
        if digest.hexdigest() != source.sha256:
            raise ModelFileError(
                f"the SHA-256 of the file of {source.name} is {digest.hexdigest()},"
                f" not {source.sha256}",
                remedy="correct the model's url or path, or its sha256",
            )

    def _note(self, source: FileSource, caching: Caching, progress: Progress | None) -> None:
        try:
            self._records.write(source, caching)
        except OSError as error:
            if caching.state == "ready":
                raise disk_error(self.path_of(source), error) from error
            # What is shown of it is then old; the file itself matters more.
            log.warning("the state of model %s cannot be noted: %s", source.name, error)
        if progress is not None:
            progress(caching)

    def _partial(self, source: FileSource) -> Path:
        return self.path_of(source).with_suffix(".part")

    def _partial_bytes(self, source: FileSource) -> int:
        if source.path is not None:
            return 0
        stamp = _stamp(self._partial(source))
        return 0 if stamp is None else stamp[0]

    def _lock(self, source: FileSource) -> FileLock:
        return FileLock(self._folder / f".{source.name}-{source.sha256[:12]}.lock")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Bytes and last change of the file; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
