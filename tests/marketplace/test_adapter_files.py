"""Adapter files that nobody vouches for: what is let through, and what is refused by name."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airan.core.errors import InvalidInputError, ModelFileError
from marketplace.adapters import gguf, peft
from marketplace.adapters.adapter import check_name
from tests.marketplace.lora_files import KEYS, adapter_file, safetensors
from tests.marketplace.lora_files import gguf as written

NAME = "blk.0.attn_output.weight"
PAIR = {f"{NAME}.lora_a": np.ones((4, 32)), f"{NAME}.lora_b": np.ones((64, 4))}
BASE = {"general.architecture": "llama"}
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["o_proj"],
}
MODULE = "base_model.model.model.layers.0.self_attn.o_proj"
PEFT_PAIR = {
    f"{MODULE}.lora_A.weight": np.ones((4, 32)),
    f"{MODULE}.lora_B.weight": np.ones((64, 4)),
}


@pytest.fixture
def head_of(tmp_path: Path) -> Callable[[bytes], gguf.GgufHead]:
    def read(data: bytes) -> gguf.GgufHead:
        path = tmp_path / "adapter.gguf"
        path.write_bytes(data)
        return gguf.read_head(path, adapter=True)

    return read


def test_an_adapter_of_a_real_model_is_let_through(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(adapter_file(model_path))
    head = gguf.read_head(path, adapter=True)
    assert gguf.check_adapter(head) == 4
    base = gguf.read_head(model_path)
    assert base.values["general.architecture"] == "llama"
    assert base.shapes["blk.0.ffn_down.weight"] == (1536, 576)
    gguf.check_base(head, base)


@pytest.mark.parametrize(
    ("keys", "tensors", "said"),
    [
        ({"general.type": "model"}, {}, "no LoRA adapter"),
        ({"adapter.type": "control_vector"}, {}, "no LoRA adapter"),
        ({"adapter.lora.alpha": float("nan")}, {}, "alpha"),
        ({"adapter.lora.alpha": "4"}, {}, "alpha"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, {}, "aLoRA"),
        ({}, {f"{NAME}.lora_b": None}, "no pair"),
        ({}, {NAME: np.ones((4, 4))}, "no pair"),
        ({}, {"other": np.ones((4, 4))}, "no pair"),
        ({}, {f"{NAME}.lora_b": np.ones((64, 3))}, "do not fit together"),
        ({}, {f"{NAME}.lora_b": np.ones((4,))}, "do not fit together"),
        (
            {},
            {f"{NAME}.lora_a": np.ones((257, 32)), f"{NAME}.lora_b": np.ones((64, 257))},
            "rank .* 257",
        ),
        (
            {},
            {f"token_embd.weight.lora_{one}": np.ones((4, 4)) for one in "ab"},
            "token embedding",
        ),
        ({}, dict.fromkeys(PAIR), "no tensors"),
    ],
)
def test_what_is_no_supported_lora_is_refused(
    head_of: Callable[[bytes], gguf.GgufHead],
    keys: dict[str, Any],
    tensors: dict[str, Any],
    said: str,
) -> None:
    kept = {name: one for name, one in (PAIR | tensors).items() if one is not None}
    with pytest.raises(ModelFileError, match=said):
        gguf.check_adapter(head_of(written(KEYS | keys, kept)))


def test_an_adapter_of_another_model_is_refused(
    head_of: Callable[[bytes], gguf.GgufHead],
) -> None:
    head = head_of(written(KEYS, PAIR))
    gguf.check_base(head, gguf.GgufHead(BASE, {NAME: (32, 64)}))
    for base, said in (
        (gguf.GgufHead({"general.architecture": "qwen2"}, {NAME: (32, 64)}), "architecture"),
        (gguf.GgufHead(BASE, {NAME: (32, 32)}), "32 x 64"),
        (gguf.GgufHead(BASE, {}), "None in the model"),
    ):
        with pytest.raises(ModelFileError, match=said):
            gguf.check_base(head, base)


def test_whatever_is_wrong_with_a_gguf_file_is_said_and_nothing_else_happens(
    head_of: Callable[[bytes], gguf.GgufHead],
) -> None:
    whole = written(KEYS, PAIR)
    head = len(whole) - sum(tensor.size * 4 for tensor in PAIR.values())
    for length in range(0, len(whole), 7):
        with pytest.raises(ModelFileError):
            head_of(whole[:length])
    draw = random.Random(3)
    n_refused = 0
    for _ in range(2000):
        spoiled = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            spoiled[draw.randrange(head)] = draw.choice((0, 1, 8, 9, 127, 255))
        try:
            gguf.check_adapter(head_of(bytes(spoiled)))
        except ModelFileError:
            n_refused += 1
    assert n_refused > 1000


@pytest.mark.parametrize("count_at", [8, 16])
def test_counts_beyond_the_file_are_refused_at_once(
    head_of: Callable[[bytes], gguf.GgufHead], count_at: int
) -> None:
    data = bytearray(written(KEYS, PAIR))
    struct.pack_into("<Q", data, count_at, 2**63)
    with pytest.raises(ModelFileError, match="the file has"):
        head_of(bytes(data))


def test_a_peft_adapter_is_let_through_with_nothing_but_what_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(safetensors(PEFT_PAIR))
    peft.check_tensors(path, 4)
    kept = json.loads(peft.check_config(CONFIG | {"base_model_name_or_path": "../secret"}))
    assert kept["target_modules"] == ["o_proj"]
    assert "base_model_name_or_path" not in kept


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": 257},
        {"r": True},
        {"lora_alpha": float("inf")},
        {"lora_alpha": 10**400},
        {"target_modules": "all-linear"},
        {"target_modules": []},
        {"target_modules": ["a/b"]},
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"o_proj": 8}},
        {"use_rslora": 1},
    ],
)
def test_settings_that_are_not_supported_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"config.{next(iter(change))}"):
        peft.check_config(CONFIG | change)


def test_whatever_is_wrong_with_a_safetensors_file_is_said_and_nothing_else_happens(
    tmp_path: Path,
) -> None:
    path = tmp_path / "adapter_model.safetensors"
    whole = safetensors(PEFT_PAIR)
    head = 8 + struct.unpack("<Q", whole[:8])[0]
    cut = [whole[:length] for length in range(0, len(whole), 7)]
    draw = random.Random(5)
    spoiled = []
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(head)] = draw.randrange(256)
        spoiled.append(bytes(data))
    n_refused = 0
    for data in (*cut, *spoiled):
        path.write_bytes(data)
        try:
            peft.check_tensors(path, 4)
        except ModelFileError:
            n_refused += 1
    assert n_refused > len(cut) + 1000


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "no tensors"),
        ({f"{MODULE}.lora_A.weight": np.ones((4, 32))}, "no counterpart"),
        ({f"{MODULE}.weight": np.ones((4, 32))}, "not supported"),
        ({name.replace("layers", "../x"): one for name, one in PEFT_PAIR.items()}, "not supported"),
        (PEFT_PAIR | {f"{MODULE}.lora_B.weight": np.ones((64, 5))}, "not of the rank"),
        (PEFT_PAIR | {f"{MODULE}.lora_B.weight": np.ones(4)}, "no matrix"),
    ],
)
def test_tensors_that_are_no_lora_are_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], said: str
) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(safetensors(tensors))
    with pytest.raises(ModelFileError, match=said):
        peft.check_tensors(path, 4)


@pytest.mark.parametrize("name", ["", "a:b", "-a", "a-", "a b", "a/b", "..", "ä", "a" * 49, "a\n"])
def test_a_name_that_could_be_taken_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        check_name("base", name)


@pytest.mark.parametrize("name", ["a", "my-adapter", "v1.2_x", "A" * 48])
def test_plain_names_are_let_through(name: str) -> None:
    check_name("base", name)
