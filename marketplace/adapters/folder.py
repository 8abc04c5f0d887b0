"""The adapters' files, and which of them an engine is to have: the gateway writes, engines read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from airan.core.errors import ModelFileError
from marketplace.adapters import gguf, peft
from marketplace.adapters.adapter import CONFIG, TENSORS, Adapter, AdapterFile

_HASH_BYTES = 4 << 20
_WANTED, _TRIED = "wanted", "tried"


class AdapterFolder:
    """A folder that the gateway and the engines of a host share. All calls are blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file_of(self, adapter: Adapter) -> AdapterFile:
        """The adapter as an engine loads it; its file was checked."""
        name = f"{adapter.id}.gguf" if adapter.format == "gguf" else adapter.id
        path = self._folder / name
        return AdapterFile(adapter.id, path, adapter.format, adapter.sha256, adapter.rank or 1)

    def new_file(self) -> Path:
        """An empty file for what comes in, which nobody takes for an adapter."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        os.close(descriptor)
        return Path(name)

    def keep(self, adapter: Adapter, new: Path) -> int:
        """Checks what came in and makes it the adapter's file; its rank.

        Raises:
            ModelFileError: its size or SHA-256 is another, or it is no adapter that is supported.
        """
        _check_bytes(new, adapter.sha256, adapter.size_bytes)
        if adapter.format == "gguf":
            rank = gguf.check_adapter(gguf.read_head(new, adapter=True))
            os.replace(new, self.file_of(adapter).path)
            return rank
        rank = int(json.loads(adapter.config or "{}")["r"])
        peft.check_tensors(new, rank)
        folder = self.file_of(adapter).path
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / CONFIG).write_text(adapter.config or "", encoding="utf-8")
        os.replace(new, folder / TENSORS)
        return rank

    def remove(self, adapter: Adapter) -> None:
        """Deletes its file, if there is one."""
        path = self.file_of(adapter).path
        if adapter.format == "gguf":
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, base: str, files: Sequence[AdapterFile]) -> None:
        """Says which adapters the engines of a model are to have, in one step.

        Raises:
            OSError: the folder cannot be written.
        """
        self._write(self._note(base, _WANTED), json.dumps([one.to_dict() for one in files]))

    def stamp(self, base: str) -> int:
        """Changes when another set was published; 0 before the first."""
        try:
            return self._note(base, _WANTED).stat().st_mtime_ns
        except OSError:
            return 0

    def wanted(self, base: str) -> list[AdapterFile]:
        """What was published last."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            text = self._note(base, _WANTED).read_text(encoding="utf-8")
            return [AdapterFile.from_dict(one) for one in json.loads(text)]
        return []

    def tried(self, engine: str) -> list[str]:
        """Ids of adapters that the engine was loading, for the first time, when it ended."""
        with suppress(OSError, ValueError):
            return list(map(str, json.loads(self._note(engine, _TRIED).read_text())))
        return []

    def note_tried(self, engine: str, ids: Sequence[str]) -> None:
        """The engine is about to load these for the first time; if it dies of it, they stay noted.

        Raises:
            OSError: the folder cannot be written.
        """
        self._write(self._note(engine, _TRIED), json.dumps(list(ids)))

    def _note(self, name: str, what: str) -> Path:
        # Names of models may have any character.
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.{what}.json"

    def _write(self, path: Path, text: str) -> None:
        new = self.new_file()
        try:
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def check_file(adapter: AdapterFile, base: Path) -> None:
    """Checks an adapter's file before an engine loads it: unchanged, and made for that model.

    `base`: the model's file, or its folder.

    Raises:
        ModelFileError: it is not, or cannot be read.
    """
    _check_bytes(adapter.tensors, adapter.sha256)
    if adapter.format == "gguf":
        head = gguf.read_head(adapter.path, adapter=True)
        gguf.check_adapter(head)
        changed_ns = base.stat().st_mtime_ns if base.exists() else 0
        gguf.check_base(head, _head_of_base(base, changed_ns))
    else:
        changed = peft.check_tensors(adapter.tensors, adapter.rank)
        peft.check_base(changed, peft.shapes_of_model(base))


@lru_cache(maxsize=8)
def _head_of_base(path: Path, changed_ns: int) -> gguf.GgufHead:
    """Read once for all adapters of a model: its vocabulary takes a while."""
    del changed_ns
    return gguf.read_head(path)


def _check_bytes(path: Path, sha256: str, size_bytes: int | None = None) -> None:
    try:
        size = path.stat().st_size
        if size_bytes is not None and size != size_bytes:
            raise ModelFileError(f"the file has {size} bytes instead of {size_bytes}")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ModelFileError(f"the adapter's file cannot be read: {error.strerror}") from error
    if digest.hexdigest() != sha256:
        raise ModelFileError(f"the SHA-256 of the file is {digest.hexdigest()}, not {sha256}")
