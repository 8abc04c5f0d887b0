"""Small random LoRA adapters for tests, the same for the same seed: llama.cpp's form and PEFT's."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marketplace.adapters.gguf import read_head

RANK = 4
_ALIGNMENT = 32
_CHANGED = ("attn_output.weight", "ffn_down.weight")


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, value: str | float | list[int]) -> bytes:
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(name) + struct.pack("<If", 6, value)
    return text(name) + struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


KEYS: dict[str, str | float | list[int]] = {
    "general.type": "adapter",
    "general.architecture": "llama",
    "adapter.type": "lora",
    "adapter.lora.alpha": float(RANK),
}


def gguf(keys: Mapping[str, str | float | list[int]], tensors: Mapping[str, np.ndarray]) -> bytes:
    """A whole GGUF file of these keys and float32 tensors (numpy's order of axes)."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(key(name, value) for name, value in keys.items())
    data = b""
    for name, tensor in tensors.items():
        sides = tensor.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
        head += struct.pack("<IQ", 0, len(data))
        data += _padded(np.ascontiguousarray(tensor, "<f4").tobytes())
    return _padded(head) + data


def matrices(base: Path, seed: int, strength: float = 1.0) -> dict[str, np.ndarray]:
    """Pairs of matrices for some of the base model's tensors."""
    draw = np.random.default_rng(seed)
    found = {}
    for name, shape in sorted(read_head(base).shapes.items()):
        if not name.endswith(_CHANGED):
            continue
        n_in, n_out = shape
        found[f"{name}.lora_a"] = draw.normal(0.0, n_in**-0.5, (RANK, n_in))
        found[f"{name}.lora_b"] = draw.normal(0.0, strength, (n_out, RANK))
    return found


LISTING = "List the numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, and go on up to fifty."
"""SmolLM2's greedy answer to this, alone and with the adapters of seeds 5 and 6, has no token (of
48) whose runner-up is less than 0.18 nats behind: it is the same however the prompt was cut into
batches, which moves the logits a little."""


def adapter_file(base: Path, seed: int = 5, strength: float = 0.6) -> bytes:
    """A LoRA adapter of the GGUF model at `base`, as llama.cpp loads it."""
    return gguf(KEYS, matrices(base, seed, strength))


def safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A whole safetensors file of these float32 tensors."""
    head: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        piece = np.ascontiguousarray(tensor, "<f4").tobytes()
        place = [len(data), len(data) + len(piece)]
        head[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        data += piece
    described = json.dumps(head).encode()
    return struct.pack("<Q", len(described)) + described + data


def peft(
    shapes: Callable[[str], tuple[int, int]], modules: list[str], n_layers: int, seed: int = 1
) -> tuple[bytes, dict[str, Any]]:
    """The tensors and the settings of a PEFT adapter for a model of Llama's kind.

    `shapes`: outputs and inputs of a module, by its name.
    """
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(n_layers):
        for module in modules:
            part = (
                "self_attn" if module.endswith(("q_proj", "k_proj", "v_proj", "o_proj")) else "mlp"
            )
            name = f"base_model.model.model.layers.{layer}.{part}.{module}"
            n_out, n_in = shapes(module)
            tensors[f"{name}.lora_A.weight"] = draw.normal(0.0, n_in**-0.5, (RANK, n_in))
            tensors[f"{name}.lora_B.weight"] = draw.normal(0.0, 1.0, (n_out, RANK))
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK}
    return safetensors(tensors), config | {"target_modules": modules, "bias": "none"}


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
