"""Fetching a file over HTTP into a partial one, from where that ends."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from airan.core.errors import ModelFileError, UnavailableError

_TIMEOUT = httpx.Timeout(10.0, read=10.0)
_MAX_REDIRECTS = 5
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

OnBytes = Callable[[int, int | None], None]
"""Told the bytes that are there, and of the whole file where the server says."""


class StoppedError(Exception):
    """The process ends; the partial file stays for the next."""


class GoneWrongError(ModelFileError):
    """The server does not have the file, or has another one."""


def download(
    url: str,
    partial: Path,
    *,
    limit_bytes: int | None = None,
    stop: threading.Event | None = None,
    on_bytes: OnBytes | None = None,
) -> bool:
    """Completes `partial` from `url`, in one request; True if it went on with what was there.

    `limit_bytes`: more than that is not taken.

    Raises:
        UnavailableError: the server cannot be reached, breaks off, or answers 429 or 5xx: what
            came is kept.
        GoneWrongError: it does not have the file, or a longer one than `limit_bytes`.
        ModelFileError: the disk is full, or cannot be written.
        StoppedError: `stop` was set.
    """
    held = partial.stat().st_size if partial.exists() else 0
    # Compressed, its bytes could be neither counted nor asked for from the middle.
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={held}-"} if held else {})
    try:
        with (
            httpx.Client(
                timeout=_TIMEOUT, follow_redirects=True, max_redirects=_MAX_REDIRECTS
            ) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            begin, size = _begin_and_size(response, held)
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if size == held:
                    return True
                partial.unlink()
                raise UnavailableError(f"{_named(url)} has no bytes after the first {held}")
            if size is not None and limit_bytes is not None and size > limit_bytes:
                raise GoneWrongError(
                    f"{_named(url)} has {size} bytes instead of {limit_bytes}",
                    remedy="correct the model's url, or its size_bytes and sha256",
                )
            _check_space(partial, begin, size)
            with partial.open("r+b" if begin else "wb") as file:
                file.seek(begin)
                file.truncate()
                chunks = _take(response, stop)
                _write(file, chunks, begin, size, limit_bytes, on_bytes)
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"{_named(url)} could not be fetched: {error or type(error).__name__}",
            remedy="check the network; what came already is kept",
        ) from error
    except OSError as error:
        raise disk_error(partial, error) from error
    return begin > 0


def disk_error(path: Path, error: OSError) -> ModelFileError:
    """What went wrong with a file on our disk."""
    if error.errno in _NO_SPACE:
        return ModelFileError(
            f"the disk is full: no space is left for {path}",
            remedy=f"free space in {path.parent}, or set cache_dir to another disk",
        )
    return ModelFileError(
        f"{path} cannot be written: {error.strerror or error}",
        remedy=f"correct the permissions of {path.parent}",
    )


def _write(
    file: BinaryIO,
    chunks: Iterator[bytes],
    begin: int,
    size: int | None,
    limit_bytes: int | None,
    on_bytes: OnBytes | None,
) -> None:
    there = begin
    for chunk in chunks:
        there += len(chunk)
        if limit_bytes is not None and there > limit_bytes:
            raise GoneWrongError(
                f"the file has more than its {limit_bytes} bytes",
                remedy="correct the model's url, or its size_bytes and sha256",
            )
        file.write(chunk)
        if on_bytes is not None:
            on_bytes(there, size)
    file.flush()
    os.fsync(file.fileno())
    if size is not None and there < size:
        raise UnavailableError(f"the server ended after {there} of {size} bytes")


def _take(response: httpx.Response, stop: threading.Event | None) -> Iterator[bytes]:
    # As it comes: of a stream that breaks off nothing is left behind in a buffer.
    for chunk in response.iter_raw():
        if stop is not None and stop.is_set():
            raise StoppedError
        yield chunk


def _begin_and_size(response: httpx.Response, held: int) -> tuple[int, int | None]:
    """Where the answer's bytes belong, and how many the whole file has."""
    status, codes = response.status_code, httpx.codes
    length = response.headers.get("content-length", "")
    said = response.headers.get("content-range", "")
    if status == codes.OK:
        return 0, int(length) if length.isdigit() else None
    if status == codes.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(said)
        if found is None or int(found[1]) != held:
            raise UnavailableError(f"{_named(str(response.url))} sends another part than asked")
        return held, None if found[2] == "*" else int(found[2])
    if status == codes.REQUESTED_RANGE_NOT_SATISFIABLE and held:
        size = said.rpartition("/")[2]
        return 0, int(size) if size.isdigit() else None
    if status in (codes.REQUEST_TIMEOUT, codes.TOO_MANY_REQUESTS) or status >= codes(500):
        raise UnavailableError(f"{_named(str(response.url))} answers {status}")
    raise GoneWrongError(
        f"{_named(str(response.url))} answers {status}", remedy="correct the model's url"
    )


def _check_space(partial: Path, begin: int, size: int | None) -> None:
    if size is None:
        return
    free = shutil.disk_usage(partial.parent).free + (partial.stat().st_size if begin else 0)
    if size > free:
        raise OSError(errno.ENOSPC, "the file is larger than what is free")


def _named(url: str) -> str:
    """The address without what may be secret in it."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.host}{parts.path}"
