"""Reading the head of a GGUF file that nobody vouches for.

Format: ggml's docs/gguf.md. Every count and length is checked against the file before it is used;
tensors' data is not read.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from airan.core.errors import ModelFileError
from marketplace.adapters.adapter import MAX_RANK

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_KEYS, _MAX_TENSORS = 4096, 65_536
_MAX_NAME_BYTES, _MAX_TEXT_BYTES = 65_535, 1 << 20
_MAX_TENSOR_NAME, _MAX_DIMENSIONS = 63, 4
_MAX_SIDE = 1 << 31
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 30: (1, 2)}
"""Of the types that adapters have (F32, F16, Q8_0, BF16): elements and bytes of a block."""
_A, _B = ".lora_a", ".lora_b"
_EMBEDDING = "token_embd.weight"
Shape = tuple[int, ...]
"""The fastest axis first, as ggml has it."""


@dataclass(frozen=True)
class GgufHead:
    """What a file says of itself."""

    values: dict[str, Any]
    """Its keys' numbers and texts; None for an array."""
    shapes: dict[str, Shape]
    """Of its tensors."""


def read_head(path: Path, *, adapter: bool = False) -> GgufHead:
    """The head of the file; `adapter`: its tensors must lie within the file, in types we know.

    Raises:
        ModelFileError: it is no whole GGUF file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read(_Reader(file, path.stat().st_size), adapter)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"the file cannot be read: {error}") from error


def check_adapter(head: GgufHead) -> int:
    """Lets the head of a LoRA adapter through; its rank.

    Raises:
        ModelFileError: it is something else, or an adapter that is not supported.
    """
    values = head.values
    if values.get("general.type") != "adapter" or values.get("adapter.type") != "lora":
        raise ModelFileError(
            "the file is no LoRA adapter", remedy="make one with convert_lora_to_gguf.py"
        )
    alpha = values.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or not math.isfinite(alpha) or alpha < 0.0:
        raise ModelFileError(f"adapter.lora.alpha is {alpha!r}, and no number above 0")
    if any(key.startswith("adapter.alora.") for key in values):
        # Its prompts are cached without it, which would break the rule that caches never mix.
        raise ModelFileError("activated LoRA (aLoRA) is not supported")
    if not head.shapes:
        raise ModelFileError("the adapter has no tensors")
    return max(_rank(head.shapes, name) for name in _adapted(head.shapes))


def check_base(head: GgufHead, base: GgufHead) -> None:
    """Lets an adapter through whose every pair of matrices fits a tensor of the base model's.

    Raises:
        ModelFileError: it was made for another model.
    """
    mine, theirs = (one.values.get("general.architecture") for one in (head, base))
    if mine != theirs:
        raise ModelFileError(
            f"the adapter is for the architecture {mine!r}, the model's {theirs!r}"
        )
    for name in _adapted(head.shapes):
        (n_in, _), (_, n_out) = head.shapes[name + _A], head.shapes[name + _B]
        if base.shapes.get(name) != (n_in, n_out):
            found = base.shapes.get(name)
            raise ModelFileError(
                f"the adapter changes {name} of {n_in} x {n_out}, which is {found} in the model",
                remedy="use an adapter that was made from this very model",
            )


def _adapted(shapes: dict[str, Shape]) -> list[str]:
    """The base model's tensors that an adapter changes, each by its two matrices."""
    names = sorted({name.removesuffix(_A).removesuffix(_B) for name in shapes})
    for name in names:
        if name in shapes or name + _A not in shapes or name + _B not in shapes:
            raise ModelFileError(f"the tensor {name} is no pair of a LoRA adapter's")
        if name == _EMBEDDING:
            raise ModelFileError("adapters that change the token embedding are not supported")
    return names


def _rank(shapes: dict[str, Shape], name: str) -> int:
    a, b = shapes[name + _A], shapes[name + _B]
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise ModelFileError(f"the matrices of {name}, {a} and {b}, do not fit together")
    if not 1 <= a[1] <= MAX_RANK:
        raise ModelFileError(f"the rank of {name} is {a[1]}; at most {MAX_RANK} is supported")
    return a[1]


def _read(reader: _Reader, adapter: bool) -> GgufHead:
    if reader.take(4) != _MAGIC or reader.number("<I") not in _VERSIONS:
        raise ModelFileError("the file is no GGUF file of version 2 or 3")
    n_tensors, n_keys = reader.count(_MAX_TENSORS, "tensors"), reader.count(_MAX_KEYS, "keys")
    values: dict[str, Any] = {}
    for _ in range(n_keys):
        key = reader.text(_MAX_NAME_BYTES)
        if key in values:
            raise ModelFileError(f"the key {key[:80]!r} is there twice")
        values[key] = reader.value(reader.number("<I"))
    shapes: dict[str, Shape] = {}
    ends: list[tuple[int, int]] = []
    for _ in range(n_tensors):
        name = reader.text(_MAX_TENSOR_NAME)
        if name in shapes:
            raise ModelFileError(f"the tensor {name!r} is there twice")
        n_axes = reader.number("<I")
        if not 1 <= n_axes <= _MAX_DIMENSIONS:
            raise ModelFileError(f"the tensor {name!r} has {n_axes} axes")
        shape = shapes[name] = tuple(int(reader.number("<Q")) for _ in range(n_axes))
        if not all(1 <= side < _MAX_SIDE for side in shape):
            raise ModelFileError(f"the tensor {name!r} has the shape {shape}")
        kind, offset = int(reader.number("<I")), int(reader.number("<Q"))
        if adapter:
            ends.append((offset, offset + _n_bytes(name, shape, kind)))
    if adapter:
        _check_places(ends, values, reader)
    return GgufHead(values, shapes)


def _n_bytes(name: str, shape: Shape, kind: int) -> int:
    if kind not in _BLOCKS:
        raise ModelFileError(
            f"the tensor {name!r} is of ggml's type {kind}", remedy="use F32, F16, BF16 or Q8_0"
        )
    n_elements, n_bytes = _BLOCKS[kind]
    if shape[0] % n_elements:
        raise ModelFileError(f"rows of the tensor {name!r} are no whole blocks")
    return math.prod(shape) // n_elements * n_bytes


def _check_places(ends: list[tuple[int, int]], values: dict[str, Any], reader: _Reader) -> None:
    alignment = values.get("general.alignment", 32)
    if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise ModelFileError(f"general.alignment is {alignment!r}")
    start = -(-reader.at // alignment) * alignment
    end = 0
    for begin, after in sorted(ends):
        if begin % alignment or begin < end or start + after > reader.size:
            raise ModelFileError("the tensors' data is not within the file")
        end = after


class _Reader:
    """Takes what is there and nothing beyond."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.at = 0

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.at:
            raise ModelFileError("the file ends too early")
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise ModelFileError("the file ends too early")
        self.at += n_bytes
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, most: int, what: str) -> int:
        found = int(self.number("<Q"))
        if found > most:
            raise ModelFileError(f"the file has {found} {what}")
        return found

    def text(self, most_bytes: int) -> str:
        return self.take(self.count(most_bytes, "bytes in a name")).decode()

    def value(self, kind: int) -> Any:
        """A number or a text; None for an array, which is passed over."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text(_MAX_TEXT_BYTES)
        if kind != _ARRAY:
            raise ModelFileError(f"the file has a value of the unknown type {kind}")
        of, length = int(self.number("<I")), int(self.number("<Q"))
        if of == _STRING:
            if length > (self.size - self.at) // 8:
                raise ModelFileError("the file ends too early")
            for _ in range(length):
                self.skip(int(self.number("<Q")))
        elif of in _NUMBERS:
            self.skip(length * struct.calcsize(_NUMBERS[of]))
        else:
            raise ModelFileError(f"the file has an array of the unknown type {of}")
        return None

    def skip(self, n_bytes: int) -> None:
        if n_bytes > self.size - self.at:
            raise ModelFileError("the file ends too early")
        self.at += n_bytes
        self._file.seek(self.at)
