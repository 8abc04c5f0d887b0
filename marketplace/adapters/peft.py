"""Reading a PEFT adapter that nobody vouches for: the head of its tensors, and its settings.

Format: safetensors' README ("Format"), PEFT's LoraConfig. Tensors' data is not read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from airan.core.errors import InvalidInputError, ModelFileError
from marketplace.adapters.adapter import MAX_RANK

_MAX_HEAD_BYTES, _MAX_MODEL_HEAD_BYTES = 4 << 20, 64 << 20
Shape = tuple[int, ...]
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_SIDE = 1 << 31
_MAX_ALPHA = 1_000_000
_PREFIX = "base_model.model."
_TENSOR = re.compile(re.escape(_PREFIX) + r"([A-Za-z0-9_.]{1,200})\.lora_(A|B)\.weight")
_MODULE = re.compile(r"[A-Za-z0-9_.]{1,100}")
_MAX_MODULES = 64
_SAME = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "layers_to_transform": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""What else changes what the adapter does must be absent, or say that it does not."""


def check_config(config: dict[str, Any]) -> str:
    """The settings as an engine is to see them: nothing but what was checked.

    Raises:
        InvalidInputError: a setting is wrong, or is not supported.
    """
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise InvalidInputError("config.r", f"must be a whole number from 1 to {MAX_RANK}")
    # Of a boolean, an int too, the type differs.
    if alpha is None or type(alpha) not in (int, float) or not 0 <= alpha <= _MAX_ALPHA:
        raise InvalidInputError("config.lora_alpha", f"must be a number from 0 to {_MAX_ALPHA}")
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not 1 <= len(modules) <= _MAX_MODULES:
        raise InvalidInputError("config.target_modules", f"must be a list of 1 to {_MAX_MODULES}")
    if not all(isinstance(one, str) and _MODULE.fullmatch(one) for one in modules):
        raise InvalidInputError("config.target_modules", "must be names of modules")
    for key, value in _SAME.items():
        if config.get(key, value) not in (value, None):
            raise InvalidInputError(f"config.{key}", f"must be {value!r}; else is not supported")
    if config.get("peft_type") != "LORA":
        raise InvalidInputError("config.peft_type", "must be 'LORA'")
    rslora = config.get("use_rslora", False)
    if not isinstance(rslora, bool):
        raise InvalidInputError("config.use_rslora", "must be true or false")
    kept = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": rank}
    kept |= {"lora_alpha": alpha, "target_modules": modules, "use_rslora": rslora}
    return json.dumps(kept)


def check_tensors(path: Path, rank: int) -> dict[str, Shape]:
    """Lets a file through whose tensors are pairs of a LoRA of that rank, all within the file.

    Gives the shapes, outputs and inputs, of what it changes, by the names of the model's tensors.

    Raises:
        ModelFileError: it is something else, or cannot be read.
    """
    head, start, size = _read_head(path, _MAX_HEAD_BYTES)
    if not head:
        raise ModelFileError("the adapter has no tensors")
    end = 0
    places = sorted(_place(name, tensor) for name, tensor in head.items())
    for begin, after in places:
        if begin != end:
            raise ModelFileError("the tensors' data has gaps or overlaps")
        end = after
    if start + end != size:
        raise ModelFileError("the tensors' data is not the rest of the file")
    return _pairs({name: tensor["shape"] for name, tensor in head.items()}, rank)


def shapes_of_model(folder: Path) -> dict[str, Shape]:
    """The shapes of a model's tensors, of a folder in Hugging Face's form.

    Raises:
        ModelFileError: its safetensors cannot be read.
    """
    found: dict[str, Shape] = {}
    for path in sorted(folder.glob("*.safetensors")):
        head = _read_head(path, _MAX_MODEL_HEAD_BYTES)[0]
        found |= {name: tuple(tensor["shape"]) for name, tensor in head.items()}
    return found


def check_base(changed: dict[str, Shape], base: dict[str, Shape]) -> None:
    """Lets an adapter through that changes tensors which the base model has, of their shapes.

    vLLM itself loads others without a word.

    Raises:
        ModelFileError: it was made for another model.
    """
    for name, shape in changed.items():
        if base.get(name) != shape:
            n_out, n_in = shape
            raise ModelFileError(
                f"the adapter changes {name} of {n_out} x {n_in}, which is {base.get(name)} in the"
                " model",
                remedy="use an adapter that was made from this very model",
            )


def _read_head(path: Path, most_bytes: int) -> tuple[dict[str, Any], int, int]:
    """The tensors' descriptions by name, where their data begins, and the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head_bytes = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
            if head_bytes > min(most_bytes, size - 8):
                raise ModelFileError("the file is no safetensors file")
            head = json.loads(file.read(head_bytes))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the file's head cannot be read: {error}") from error
    if not isinstance(head, dict):
        raise ModelFileError("the file is no safetensors file")
    head.pop("__metadata__", None)
    return head, 8 + head_bytes, size


def _place(name: str, tensor: Any) -> tuple[int, int]:
    try:
        n_bytes, shape = _BYTES[tensor["dtype"]], tensor["shape"]
        begin, end = tensor["data_offsets"]
        sides = [type(side) is int and 1 <= side < _MAX_SIDE for side in shape]
        if type(begin) is not int or type(end) is not int or begin < 0 or not all(sides):
            raise ValueError
        if len(shape) != 2 or end - begin != n_bytes * math.prod(shape):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the tensor {name[:80]!r} is no matrix of F32, F16 or BF16"
        ) from error
    return begin, end


def _pairs(shapes: dict[str, list[int]], rank: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        parts = _TENSOR.fullmatch(name)
        if parts is None:
            raise ModelFileError(f"the tensor {name[:80]!r} is not supported in an adapter")
        a, b = (f"{_PREFIX}{parts[1]}.lora_{one}.weight" for one in "AB")
        if a not in shapes or b not in shapes:
            raise ModelFileError(f"the tensor {name[:80]!r} has no counterpart")
        if shape[0 if parts[2] == "A" else 1] != rank:
            raise ModelFileError(f"the tensor {name[:80]!r} is not of the rank {rank}")
        found[f"{parts[1]}.weight"] = (shapes[b][0], shapes[a][1])
    return found
